"""One NVIDIA GPU as a sensor.

The counter (Volta and newer) has millijoules since the driver was loaded and is updated about every 100 ms. It
never wraps, but restarts when the driver is reloaded. NVML calls serialise inside the driver and can take
milliseconds, so where edges are many, readings take a hundredth of the time, and other edges are extrapolated.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, Literal

from carbon_otel import clock
from carbon_otel.provenance import Band
from carbon_otel.sensors.base import Device, DeviceType, ProcessUse, SensorError
from carbon_otel.sensors.nvidia.library import Backoff, Nvml
from carbon_otel.sensors.nvidia.power import power_source
from carbon_otel.sensors.nvidia.processes import ProcessUtilisation
from carbon_otel.sensors.nvidia.update_clock import UpdateClock
from carbon_otel.units import MILLI

_UPDATE_PERIOD_S: Final = 0.1
# On bare metal; 2.5 ms were measured on an H200 in a guest (tests/hardware/README.md).
_READING_S: Final = 0.0005
# The part of the time that readings at edges may take.
_READING_PART: Final = 0.01
_FALLBACK_LIMIT_W: Final = 1000.0
_PLAUSIBLE_LIMIT_W: Final = 10_000.0

# NVIDIA states +-5 % for the board's power sensor; the counter comes from the same chain (Yang et al., SC 2024).
_COUNTER = Band(0.95, 1.05, "NVML energy counter: +-5 % (NVIDIA; Yang et al. 2024)", "stated")
_POWER = Band(0.90, 1.10, "NVML power polled at 1 Hz: +-10 % for runs over a minute (Yang et al. 2024)")


class NvmlGpu:
    """One GPU. `kind` is `power` (watts) if the device has no energy counter (millijoules).

    A GPU that was lost, or whose driver was reloaded, raises SensorError until it is back; the meter handles the
    restart of the counter. The constructor raises SensorError if neither energy nor power can be read.
    """

    wrap = None
    tick_interval_s = 0.95

    def __init__(
        self,
        nvml: Nvml,
        uuid: str,
        handle: Any,
        *,
        clock_ns: Callable[[], int] = clock.monotonic_ns,
    ) -> None:
        self._nvml = nvml
        self._uuid = uuid
        self._handle = handle
        self._starts = nvml.starts
        self._again = Backoff(nvml.clock_s)
        self._utilisation = ProcessUtilisation(nvml)
        # Assumed until `prepare` has learned them.
        self.update_period_s, self._reading_s = _UPDATE_PERIOD_S, _READING_S
        self.kind: Literal["counter", "power"] = "counter"
        self.joules_per_unit = MILLI
        self.power_bounds_w = (0.0, 2 * self._limit_w())
        name = self._name(handle)
        source = "NVML total energy"
        contains: frozenset[DeviceType] = frozenset()
        self._raw: Callable[[Any], float] = nvml.api.nvmlDeviceGetTotalEnergyConsumption
        power = None if self._counts() else power_source(nvml, handle, self.power_bounds_w[1])
        if power is not None:
            self._raw, source = power.read, power.name
            self.kind, self.joules_per_unit = "power", 1.0
            if power.whole_module:
                name, contains = f"{name} (whole module)", frozenset({"cpu", "memory"})
        counted = self.kind == "counter"
        self.device = Device(
            id=uuid,
            type="gpu",
            name=name,
            method="measured.counter" if counted else "measured.power",
            band=_COUNTER if counted else _POWER,
            source=source,
            contains=contains,
        )
        self._updates = UpdateClock(self.read, _UPDATE_PERIOD_S, _READING_S, clock_ns) if counted else None
        nvml.metered += 1

    @property
    def quantum_s(self) -> float:
        return self.update_period_s if self.kind == "counter" else 0.0

    @property
    def edge_interval_s(self) -> float:
        return self.update_period_s / 2  # sooner, the counter is likely unchanged

    @property
    def edge_pace_s(self) -> float:
        return self._reading_s * self._nvml.metered / _READING_PART

    def shown(self, began_ns: int, took_ns: int) -> tuple[int, int]:
        """The moment up to which a reading has what was drawn, and how far that may be off, in ns."""
        return (began_ns, 0) if self._updates is None else self._updates.shown(began_ns, took_ns)

    def prepare(self, sleep: Callable[[float], object]) -> None:
        """Learn the counter's update period, and how long a reading takes, in about a second.

        GPUs with one name have one firmware, so only one of them is watched. After a failed reading what was
        assumed stays.
        """
        if self._updates is None:
            return
        learned, name = self._nvml.learned, self.device.name
        if name not in learned and self._updates.watch(sleep):
            learned[name] = self._updates.period_s, self._updates.usual_reading_s
        if name in learned:
            self.update_period_s, self._reading_s = learned[name]
            self._updates.period_s, self._updates.reading_s = learned[name]

    @property
    def due(self) -> bool:
        """Whether the moments at which the counter is renewed should be looked at again."""
        return self._updates is not None and self._updates.due

    def follow(self, sleep: Callable[[float], object]) -> None:
        """Look when the counter is renewed; takes a tenth of a second, and longer where nothing is known."""
        if self._updates is not None:
            self._updates.follow(sleep)

    def lose(self) -> None:
        """Forget when the counter is renewed: the host has slept, or the driver was reloaded."""
        if self._updates is not None:
            self._updates.lose()

    def read(self) -> float:
        try:
            return self._reading()
        except self._nvml.error as error:
            failure = error
        try:
            self._recover(failure)
            return self._reading()
        except self._nvml.error as error:
            raise SensorError(f"{self.device.id}: {error}") from error

    def utilisation(self) -> ProcessUse | None:
        """Which processes kept the multiprocessors busy since the last call.

        None in the first call, and if NVML does not report it. For ticks, never for the edge of a stage, because
        NVML inspects every process. Raises SensorError.
        """
        return self._utilisation.since_last(self._handle)

    def close(self) -> None:
        """Does nothing: NVML stays initialised, because the application may use it."""

    def _reading(self) -> float:
        if self._starts != self._nvml.starts:
            self._renew_handle()
        raw = self._raw(self._handle)
        if not 0 <= raw < math.inf:
            raise SensorError(f"{self.device.id}: NVML returned {raw!r}")
        return raw

    def _recover(self, error: Exception) -> None:
        """Get a new handle if that may help and a retry is due. Raises NVML's error, or SensorError."""
        if not self._nvml.is_lost(error) or not self._again.due():
            raise error
        self._nvml.restart_after(error, self._starts)
        self._renew_handle()
        self._again.reset()

    def _renew_handle(self) -> None:
        starts = self._nvml.starts
        self._handle = self._nvml.handle(self._uuid)
        self._starts = starts
        self.lose()

    def _counts(self) -> bool:
        """Whether the energy counter works. Since the driver was loaded, a GPU has used some energy."""
        try:
            return bool(self._raw(self._handle) != 0)
        except self._nvml.error:
            return False

    def _limit_w(self) -> float:
        try:
            watts = self._nvml.api.nvmlDeviceGetEnforcedPowerLimit(self._handle) * MILLI
        except self._nvml.error:
            return _FALLBACK_LIMIT_W
        return float(watts) if 0 < watts <= _PLAUSIBLE_LIMIT_W else _FALLBACK_LIMIT_W

    def _name(self, handle: Any) -> str:
        try:
            return str(self._nvml.api.nvmlDeviceGetName(handle))
        except (self._nvml.error, UnicodeDecodeError):
            return "NVIDIA GPU"

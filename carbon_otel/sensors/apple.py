"""Apple silicon: the energy counters of IOReport, through the package `zeus-apple-silicon` (extra `apple`).

They need no administrator rights and count millijoules. Apple calls the figures estimates; they are probably
modelled from utilisation, frequency and voltage (documentation of zeus-apple-silicon).
"""

from __future__ import annotations

import importlib
import platform
import sys
import threading
from collections.abc import Callable
from typing import Any, Final, Literal

from carbon_otel import clock
from carbon_otel.fork import renew_after_fork
from carbon_otel.provenance import Band
from carbon_otel.sensors.base import Device, DeviceType, Finding, Sensor, SensorError
from carbon_otel.units import MILLI

_PACKAGE: Final = "zeus_apple_silicon"
# One call returns the samples of all channels, so sensors that are read together share it.
_SHARED_NS: Final = 1_000_000
_MOST_W: Final = 500.0
_BAND = Band(0.80, 1.20, "IOReport energy model: +-20 %, our estimate; Apple states none", "estimate")

# The processor's total includes the clusters and cores; `GPU Energy` does not include the GPU's SRAM.
_CHANNELS: Final[tuple[tuple[str, DeviceType, str, tuple[str, ...]], ...]] = (
    ("apple-cpu", "cpu", "Apple silicon CPU", ("cpu_total_mj",)),
    ("apple-dram", "memory", "Apple silicon DRAM", ("dram_mj",)),
    ("apple-gpu", "gpu", "Apple silicon GPU", ("gpu_mj", "gpu_sram_mj")),
    ("apple-ane", "gpu", "Apple Neural Engine", ("ane_mj",)),
)


class IoReport:
    """The counters of all channels, read together."""

    def __init__(self, monitor: Any, clock_ns: Callable[[], int] = clock.monotonic_ns) -> None:
        self._monitor = monitor
        self._clock_ns = clock_ns
        self._latest: Any = None
        self._read_at_ns = 0
        # Without the lock, a delayed thread could replace a newer sample with an older one.
        self._lock = threading.Lock()
        renew_after_fork(self._renew)

    def _renew(self) -> None:
        """In a forked child: the thread that held the lock does not exist there."""
        self._lock = threading.Lock()

    def counters(self) -> Any:
        """The monitor's metrics, at most a millisecond old. Raises SensorError."""
        with self._lock:
            now_ns = self._clock_ns()
            if self._latest is None or now_ns - self._read_at_ns > _SHARED_NS:
                try:
                    self._latest = self._monitor.get_cumulative_energy()
                except Exception as error:
                    raise SensorError(f"IOReport: {error}") from error
                self._read_at_ns = now_ns
            return self._latest


class AppleChannel:
    """The energy of one component in millijoules: the sum of the chip's fields for it."""

    kind: Literal["counter"] = "counter"
    joules_per_unit = MILLI
    wrap = None
    update_period_s = quantum_s = 0.01
    edge_interval_s = 0.01
    tick_interval_s = 0.0
    power_bounds_w = (0.0, _MOST_W)

    def __init__(self, report: IoReport, device: Device, fields: tuple[str, ...]) -> None:
        self.device = device
        self._report = report
        self._fields = fields

    def read(self) -> float:
        counters = self._report.counters()
        values = [getattr(counters, field, None) for field in self._fields]
        known = [value for value in values if value is not None]
        if not known or not all(value >= 0 for value in known):
            raise SensorError(f"{self.device.name}: IOReport returned {values}")
        return float(sum(known))

    def close(self) -> None:
        """IOReport's subscription ends with the monitor."""


def find(system: str = sys.platform, machine: str | None = None) -> tuple[list[Sensor], list[Finding]]:
    """The channels of an Apple chip; none on other machines. Never raises."""
    if system != "darwin" or (machine or platform.machine()) != "arm64":
        return [], []
    try:
        report = IoReport(importlib.import_module(_PACKAGE).AppleEnergyMonitor())
    except ImportError:
        reason, fix = f"the package {_PACKAGE} is not installed", "pip install 'carbon-otel[apple]'"
        return [], [Finding("cpu", "missing", "Apple silicon", reason, fix, unmetered=True)]
    except Exception as error:  # noqa: BLE001 - a native module's own exceptions
        return [], [Finding("cpu", "missing", "Apple silicon", f"IOReport: {error}", unmetered=True)]
    sensors: list[Sensor] = []
    findings: list[Finding] = []
    for identity, device_type, name, fields in _CHANNELS:
        source = "IOReport energy model"
        # The chip cuts the power of its GPU and its neural engine while they are unused.
        may_rest = device_type == "gpu"
        device = Device(identity, device_type, name, "measured.counter", _BAND, source, frozenset(), may_rest)
        sensor = AppleChannel(report, device, fields)
        try:
            sensor.read()
        except SensorError as error:
            findings.append(Finding(device_type, "missing", name, str(error)))
        else:
            sensors.append(sensor)
            findings.append(Finding(device_type, device.method, name))
    return sensors, findings

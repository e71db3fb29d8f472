"""Devices of known power on a virtual clock, with the interface of real sensors."""

from __future__ import annotations

from typing import Literal

from carbon_otel.provenance import Band, Method
from carbon_otel.sensors.base import Device, DeviceType, SensorError
from tests.fakes.clock import NS, Clock

EXACT = Band(1.0, 1.0, "a test's own device")


class FakeSensor:
    """Draws `watts`. Energy is kept in whole nanojoules, so that sums are exact.

    Every reading raises `fault` if it is set; `spent_j` is the true energy, `reads` the number of readings.
    """

    def __init__(
        self,
        clock: Clock,
        device_id: str = "package-0",
        device_type: DeviceType = "cpu",
        *,
        watts: int = 100,
        kind: Literal["counter", "power"] = "counter",
        joules_per_unit: float = 1e-6,
        wrap: float | None = None,
        update_period_s: float = 0.001,
        edge_interval_s: float = 0.0,
        tick_interval_s: float = 0.0,
        power_bounds_w: tuple[float, float] = (0.0, 1500.0),
        method: Method | None = None,
        band: Band = EXACT,
    ) -> None:
        self.kind: Literal["counter", "power"] = kind
        self.joules_per_unit = joules_per_unit
        self.wrap = wrap
        self.update_period_s = update_period_s
        self.edge_interval_s = edge_interval_s
        self.tick_interval_s = tick_interval_s
        self.power_bounds_w = power_bounds_w
        chosen: Method = method or ("measured.counter" if kind == "counter" else "measured.power")
        self.device = Device(device_id, device_type, device_id, chosen, band, "fake")
        self.fault: str | None = None
        self.reads = 0
        self.closed = False
        self._clock = clock
        self._watts = watts
        self._since_ns = self._start_ns = clock()
        self._spent_nj = 0

    @property
    def quantum_s(self) -> float:
        return self.update_period_s if self.device.method == "measured.counter" else 0.0

    @property
    def watts(self) -> int:
        return self._watts

    @watts.setter
    def watts(self, watts: int) -> None:
        self._spent_nj, self._since_ns = self.spent_nj, self._clock()
        self._watts = watts

    @property
    def spent_nj(self) -> int:
        return self._spent_nj + self._watts * (self._clock() - self._since_ns)

    @property
    def spent_j(self) -> float:
        return self.spent_nj / NS

    def read(self) -> float:
        self.reads += 1
        if self.fault is not None:
            raise SensorError(self.fault)
        if self.kind == "power":
            return self._watts
        units = self.spent_nj / (self.joules_per_unit * NS)
        return units if self.wrap is None else units % self.wrap

    def close(self) -> None:
        self.closed = True


class SlowSensor(FakeSensor):
    """Like a GPU's counter: slow to read, renewed by `renew`, every 100 ms."""

    edge_pace_s = 1.0

    def __init__(self, clock: Clock, *, watts: int) -> None:
        super().__init__(
            clock,
            "GPU-0",
            "gpu",
            watts=watts,
            joules_per_unit=1e-3,
            update_period_s=0.1,
            edge_interval_s=0.05,
        )
        self._shown = 0.0

    def shown(self, began_ns: int, took_ns: int) -> tuple[int, int]:
        return began_ns - NS // 20, NS // 20

    def renew(self) -> None:
        """Let the counter show what has been drawn."""
        self._shown = self.spent_nj / (self.joules_per_unit * NS)

    def read(self) -> float:
        self.reads += 1
        return self._shown


def package(clock: Clock, watts: int = 100, device_id: str = "package-0") -> FakeSensor:
    """Like a RAPL zone: cheap to read, wraps. It is read at every edge."""
    return FakeSensor(clock, device_id, watts=watts, wrap=262_143_328_850)


def gpu(clock: Clock, watts: int = 300, device_id: str = "GPU-0") -> FakeSensor:
    """Like NVML's counter: slow to read, updated every 100 ms, never wraps."""
    return FakeSensor(
        clock,
        device_id,
        "gpu",
        watts=watts,
        joules_per_unit=1e-3,
        update_period_s=0.1,
        edge_interval_s=0.5,
        tick_interval_s=0.95,
        power_bounds_w=(0.0, 1400.0),
    )

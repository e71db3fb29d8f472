"""The model of a device with no other information: a constant power."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from carbon_otel import clock
from carbon_otel.sensors.base import Device
from carbon_otel.units import S_PER_NS


class ConstantPower:
    """Counts the joules of a device that draws `watts` all the time."""

    kind: Literal["counter"] = "counter"
    joules_per_unit = 1.0
    wrap = None
    update_period_s = 0.001
    quantum_s = 0.0
    edge_interval_s = 0.002
    tick_interval_s = 0.0

    def __init__(
        self, device: Device, watts: float, clock_ns: Callable[[], int] = clock.monotonic_ns
    ) -> None:
        self.device = device
        self.power_bounds_w = (watts, watts)
        self._watts = watts
        self._clock_ns = clock_ns
        self._start_ns = clock_ns()

    def read(self) -> float:
        return self._watts * (self._clock_ns() - self._start_ns) * S_PER_NS

    def close(self) -> None:
        """Does nothing: there is nothing to release."""

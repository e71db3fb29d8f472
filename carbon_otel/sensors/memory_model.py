"""Model of the memory of a host with a measured package but no dram zone (AMD): a constant power per gigabyte.

0.30 W/GB, band 0.1 to 0.6: published constants run from 0.284 (Boavizta) over 0.3725 (Green Algorithms) to
0.392 (Cloud Carbon Footprint) and disagree by a factor of three between tools.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

import psutil

from carbon_otel import clock
from carbon_otel.provenance import Band
from carbon_otel.sensors.base import Device
from carbon_otel.units import BYTES_PER_GB, S_PER_NS

WATTS_PER_GB: Final = 0.30
_BAND = Band(0.1 / WATTS_PER_GB, 0.6 / WATTS_PER_GB, "published W/GB constants, 0.1-0.6", "spread")


class MemoryModel:
    """Integrates `WATTS_PER_GB` times the size of the memory over time."""

    kind: Literal["counter"] = "counter"
    joules_per_unit = 1.0
    wrap = None
    update_period_s = 0.001
    quantum_s = 0.0
    edge_interval_s = 0.002
    tick_interval_s = 0.0

    def __init__(
        self, bytes_total: int | None = None, clock_ns: Callable[[], int] = clock.monotonic_ns
    ) -> None:
        gigabytes = (bytes_total or psutil.virtual_memory().total) / BYTES_PER_GB
        self._watts = WATTS_PER_GB * gigabytes
        self.power_bounds_w = (self._watts, self._watts)
        self.device = Device(
            id="memory-model",
            type="memory",
            name=f"{gigabytes:.0f} GB",
            method="modelled.constant",
            band=_BAND,
            source=f"{WATTS_PER_GB} W/GB",
        )
        self._clock_ns = clock_ns
        self._start_ns = clock_ns()

    def read(self) -> float:
        return self._watts * (self._clock_ns() - self._start_ns) * S_PER_NS

    def close(self) -> None:
        """Does nothing: there is nothing to release."""

"""Model of the memory of a host with a measured package but no dram zone (AMD): a constant power per gigabyte.

0.30 W/GB, band 0.1 to 0.6: published constants run from 0.284 (Boavizta) over 0.3725 (Green Algorithms) to
0.392 (Cloud Carbon Footprint) and disagree by a factor of three between tools.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import psutil

from carbon_otel import clock
from carbon_otel.provenance import Band
from carbon_otel.sensors.base import Device
from carbon_otel.sensors.constant_power import ConstantPower
from carbon_otel.units import BYTES_PER_GB

WATTS_PER_GB: Final = 0.30
_BAND = Band(0.1 / WATTS_PER_GB, 0.6 / WATTS_PER_GB, "published W/GB constants, 0.1-0.6", "spread")


def memory_gb() -> float:
    """The size of this host's memory in gigabytes."""
    return float(psutil.virtual_memory().total) / BYTES_PER_GB


def memory_model(
    bytes_total: int | None = None, clock_ns: Callable[[], int] = clock.monotonic_ns
) -> ConstantPower:
    """`WATTS_PER_GB` times the size of the memory, by default of this host."""
    gigabytes = memory_gb() if bytes_total is None else bytes_total / BYTES_PER_GB
    device = Device(
        id="memory-model",
        type="memory",
        name=f"{gigabytes:.0f} GB",
        method="modelled.constant",
        band=_BAND,
        source=f"{WATTS_PER_GB} W/GB",
    )
    return ConstantPower(device, WATTS_PER_GB * gigabytes, clock_ns)

"""The states of one run, one after another: what has been used so far, at what power, and in which hours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from carbon_otel.footprint import Footprint
from carbon_otel.mlflow.schema import names
from carbon_otel.mlflow.schema.hourly import Hours


class Point(NamedTuple):
    """`values` are sums, which may be added to those of an earlier segment; `gauges` may not."""

    values: dict[str, float]
    gauges: dict[str, float]
    hourly: str
    timestamp_ms: int


class Series:
    """One segment of a run or one window of inference, from its start at `wall_s` (seconds since the epoch)."""

    def __init__(self, wall_s: float) -> None:
        self._hours = Hours()
        self._at_s = wall_s
        self._stamp_ms = int(wall_s * 1000)
        self._own_wh = 0.0
        self._duration_s = 0.0
        self._devices: Mapping[str, float] = {}

    def point(
        self, footprint: Footprint, nested: Mapping[str, float], units: Mapping[str, float], wall_s: float
    ) -> Point:
        """The state now; `nested` is `names.parts()` of the runs nested in it, added up."""
        # A clock that is set back must not put this point before the last one.
        self._stamp_ms = max(int(wall_s * 1000), self._stamp_ms + 1)
        values = names.metrics(footprint, nested, units)
        own_wh = footprint.energy_wh - sum(
            value for name, value in nested.items() if name.endswith("/energy_wh")
        )
        self._hours.spend(own_wh - self._own_wh, self._at_s, wall_s)
        gauges = {}
        seconds = footprint.duration_s - self._duration_s
        if seconds > 0:
            for device, joules in footprint.devices_inclusive.items():
                gauges[f"carbon/power/{names.device(device)}_w"] = (
                    joules - self._devices.get(device, 0.0)
                ) / seconds
        self._at_s, self._own_wh = wall_s, own_wh
        self._duration_s, self._devices = footprint.duration_s, footprint.devices_inclusive
        return Point(values, gauges, self._hours.text(), self._stamp_ms)

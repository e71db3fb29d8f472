"""At which hours of the day energy was used."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from carbon_otel.lifecycle.entry import Entry
from carbon_otel.mlflow.schema import hourly, names

_HOURS = 24


class DayProfile(NamedTuple):
    """Watt-hours by hour of the day (UTC), and the watt-hours whose hour is not known."""

    by_hour_wh: tuple[float, ...]
    unknown_wh: float


def day_profile(entries: Iterable[Entry]) -> DayProfile:
    """The profile of entries; both parts of it add up to their energy. Long runs are known by the day only."""
    by_hour, unknown_wh = [0.0] * _HOURS, 0.0
    for entry in entries:
        energy_wh = entry.energy_wh
        shares = hourly.shares(entry.tags.get(names.HOURLY, ""), hourly.HOUR) or {"": 1.0}
        for when, share in shares.items():
            hour = when[hourly.DAY + 1 :]
            # Any program may have changed the tag.
            if hour.isdecimal() and int(hour) < _HOURS:
                by_hour[int(hour)] += energy_wh * share
            else:
                unknown_wh += energy_wh * share
    return DayProfile(tuple(by_hour), unknown_wh)

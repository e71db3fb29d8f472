"""Energy by hour (UTC): watt-hours in a text that fits in a tag.

The text is `2026-11-24T13=1.25 2026-11-24T14=0.5`. If it is too long for a tag, hours become days, then
months: `2026-11-24=30`, `2026-11=900`.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping
from typing import Final

from carbon_otel.mlflow.schema.checked import LONGEST_TAG, is_amount, number
from carbon_otel.units import S_PER_H

_MOST_HOURS: Final = 1000
DAY: Final = len("2026-11-24")
MONTH: Final = len("2026-11")
_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}(-[0-9]{2}(T[0-9]{2})?)?")


class Hours:
    """Sums of watt-hours by hour, since a time in seconds since the epoch.

    The wall clock is read once, at the start, because it may jump. Later times are counted by a monotonic clock.
    """

    def __init__(self, wall_s: float) -> None:
        self._wall_s = wall_s
        self._elapsed_s = 0.0
        self._wh: dict[str, float] = {}

    def spend(self, wh: float, elapsed_s: float) -> None:
        """Add energy that was used evenly from the end of the last interval until `elapsed_s` after the start."""
        from_s, self._elapsed_s = self._elapsed_s, max(self._elapsed_s, elapsed_s)
        for hour, share in _hours(self._wall_s + from_s, self._wall_s + self._elapsed_s):
            self._wh[hour] = self._wh.get(hour, 0.0) + wh * share
        if len(self._wh) > _MOST_HOURS:  # their text does not fit in a tag
            self._wh = dict(_coarser(self._wh, DAY))

    def text(self) -> str:
        return _text(self._wh)


def parsed(text: str) -> dict[str, float]:
    """Watt-hours by hour, day or month. Invalid items, such as the end of a cut text, are ignored."""
    watt_hours = {}
    for item in text.split():
        when, _, amount = item.partition("=")
        wh = _wh(amount)
        if wh is not None and _TIME.fullmatch(when):
            watt_hours[when] = wh
    return watt_hours


def added(one: str, other: str) -> str:
    """The sum of two such texts."""
    sums = parsed(one)
    for when, wh in parsed(other).items():
        sums[when] = sums.get(when, 0.0) + wh
    return _text(sums)


def shares(text: str, length: int) -> dict[str, float]:
    """The share of the energy by month (`length` MONTH) or by day (DAY); the shares add up to 1.

    Empty if the text has no energy.
    """
    wh = _coarser({when: max(0.0, wh) for when, wh in parsed(text).items()}, length)
    total = sum(wh.values())
    return {when: value / total for when, value in wh.items()} if total > 0 else {}


def _wh(text: str) -> float | None:
    try:
        wh = number(float(text))
    except ValueError:
        return None
    return wh if wh is not None and is_amount(wh) else None


def _text(wh: Mapping[str, float]) -> str:
    text = ""
    for length in (None, DAY, MONTH):
        wh = _coarser(wh, length) if length else wh
        text = " ".join(f"{when}={value:.6g}" for when, value in sorted(wh.items()))
        if len(text) <= LONGEST_TAG:
            return text
    # More than 600 months: another program has written them.
    return text[:LONGEST_TAG].rpartition(" ")[0]


def _coarser(wh: Mapping[str, float], length: int) -> dict[str, float]:
    sums: dict[str, float] = {}
    for when, value in wh.items():
        sums[when[:length]] = sums.get(when[:length], 0.0) + value
    return sums


def _hours(from_s: float, to_s: float) -> Iterator[tuple[str, float]]:
    """The hours between two times, each with its share of the time."""
    total_s = to_s - from_s
    if total_s <= 0:
        yield _hour(to_s), 1.0
        return
    while from_s < to_s:
        until_s = min(to_s, (math.floor(from_s / S_PER_H) + 1) * S_PER_H)
        yield _hour(from_s), (until_s - from_s) / total_s
        from_s = until_s


def _hour(at_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H", time.gmtime(at_s))

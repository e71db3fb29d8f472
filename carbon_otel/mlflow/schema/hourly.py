"""Energy by quarter-hour (UTC): watt-hours in a text that fits in a tag.

The text has runs of successive quarter-hours, each with its first one: `2026-11-24T13:45=1.25,0.5,,2`. An empty
place is a quarter-hour without energy. If the text is too long for a tag, quarter-hours become hours, then days,
then months: `2026-11-24T13=1.25,0.5`, `2026-11-24=30,12`, `2026-11=900`. The quarter-hours of a week fit, and the
hours of a month. Earlier versions wrote hours, one by one; their texts are read too.

The values add up to the energy to 1e-10 of it: all have the same number of decimals, and what one loses by
rounding, the next one gets.
"""

from __future__ import annotations

import functools
import math
import re
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, timezone
from typing import Final

from carbon_otel.mlflow.schema.checked import LONGEST_TAG, is_amount, number

QUARTER_S: Final = 900
QUARTER: Final = len("2026-11-24T13:45")
HOUR: Final = len("2026-11-24T13")
DAY: Final = len("2026-11-24")
MONTH: Final = len("2026-11")
# More of them do not fit in a tag.
_MOST_ITEMS: Final = 1000
_STEPS: Final = {
    QUARTER: timedelta(seconds=QUARTER_S),
    HOUR: timedelta(hours=1),
    DAY: timedelta(days=1),
}
_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}(-[0-9]{2}(T[0-9]{2}(:(00|15|30|45))?)?)?")
_LONGEST_GAP: Final = QUARTER  # more commas are longer than the start of a new run
# The sum is right to half of the last one of these digits.
_DIGITS: Final = 10
_MOST_DECIMALS: Final = 18
_LONGEST: Final = 10 * LONGEST_TAG


class Quarters:
    """Sums of watt-hours by quarter-hour, since a time in seconds since the epoch.

    The wall clock is read once, at the start, because it may jump. Later times are counted by a monotonic clock.
    """

    def __init__(self, wall_s: float, elapsed_s: float = 0.0) -> None:
        """`elapsed_s` is the time from that start to the first energy."""
        self._wall_s = wall_s
        self._elapsed_s = elapsed_s
        self._wh: dict[str, float] = {}

    def spend(self, wh: float, elapsed_s: float) -> None:
        """Add energy that was used evenly from the end of the last interval until `elapsed_s` after the start."""
        from_s, self._elapsed_s = self._elapsed_s, max(self._elapsed_s, elapsed_s)
        for quarter, share in _quarters(self._wall_s + from_s, self._wall_s + self._elapsed_s):
            self._wh[quarter] = self._wh.get(quarter, 0.0) + wh * share
        for length in (HOUR, DAY):
            if len(self._wh) > _MOST_ITEMS:
                self._wh = _coarser(self._wh, length)

    def text(self) -> str:
        return _text(self._wh)


def parsed(text: str) -> dict[str, float]:
    """Watt-hours by quarter-hour, hour, day or month. Invalid items, as at the end of a cut text, are ignored."""
    watt_hours: dict[str, float] = {}
    for item in text[:_LONGEST].split():
        when, _, amounts = item.partition("=")
        if _TIME.fullmatch(when):
            watt_hours.update(_run(when, amounts.split(",")))
    return watt_hours


def interval(when: str) -> tuple[datetime, datetime]:
    """First instant of a quarter-hour, hour, day or month, and of the next one, in UTC.

    Raises ValueError for a date that no calendar has.
    """
    start = _instant(when)
    if len(when) == MONTH:
        return start, (start + timedelta(days=31)).replace(day=1)
    try:
        return start, start + _STEPS[len(when)]
    except OverflowError as error:
        raise ValueError(f"{when} has no end") from error


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


def _run(when: str, amounts: list[str]) -> Iterator[tuple[str, float]]:
    """The successive items that begin at `when`; those of no or of an unreadable amount are left out."""
    step = _STEPS.get(len(when))
    if len(amounts) > 1:
        try:
            start = _instant(when)
            if step is None:
                return
            labels = [_label(start + place * step, len(when)) for place in range(len(amounts))]
        except (ValueError, OverflowError):
            return
    else:
        labels = [when]
    for label, amount in zip(labels, amounts, strict=True):
        wh = _wh(amount)
        if wh is not None:
            yield label, wh


def _wh(text: str) -> float | None:
    try:
        wh = number(float(text))
    except ValueError:
        return None
    return wh if wh is not None and is_amount(wh) else None


def _text(wh: Mapping[str, float]) -> str:
    text = ""
    for length in (QUARTER, HOUR, DAY, MONTH):
        wh = _coarser(wh, length)
        text = " ".join(_runs(wh))
        if len(text) <= LONGEST_TAG:
            return text
    # More than 600 months: another program has written them.
    return text[:LONGEST_TAG].rpartition(" ")[0]


def _runs(wh: Mapping[str, float]) -> Iterator[str]:
    """The texts of the runs of successive items."""
    run, expected = "", ""
    for when, value in _rounded(wh):
        commas = _commas(expected, when)
        if commas is None:
            if run:
                yield run
            run = f"{when}={value}"
        else:
            run += f"{commas}{value}"
        expected = _next(when)
    if run:
        yield run


def _commas(expected: str, when: str) -> str | None:
    """What separates an item from the one before `expected`; None if a new run is shorter."""
    commas = ","
    while expected != when:
        if not expected or len(commas) > _LONGEST_GAP or len(expected) != len(when):
            return None
        commas += ","
        expected = _next(expected)
    return commas


@functools.lru_cache(_MOST_ITEMS)  # a run writes the same items at each checkpoint
def _next(when: str) -> str:
    """The item after this one; empty for a month, and for a date that no calendar has."""
    try:
        return _label(interval(when)[1], len(when)) if len(when) in _STEPS else ""
    except ValueError:
        return ""


def _rounded(wh: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    """The items by time, rounded so that their sum is right."""
    total = math.fsum(abs(value) for value in wh.values())
    decimals = min(_MOST_DECIMALS, _DIGITS - math.floor(math.log10(total))) if total > 0 else 0
    carried = 0.0
    for when, value in sorted(wh.items()):
        exact = value + carried
        text = f"{round(exact, decimals) + 0.0:.{max(0, decimals)}f}"  # + 0.0: not "-0"
        carried = exact - float(text)
        yield when, text.rstrip("0").rstrip(".") if "." in text else text


def _coarser(wh: Mapping[str, float], length: int) -> dict[str, float]:
    sums: dict[str, float] = {}
    for when, value in wh.items():
        sums[when[:length]] = sums.get(when[:length], 0.0) + value
    return sums


def _quarters(from_s: float, to_s: float) -> Iterator[tuple[str, float]]:
    """The quarter-hours between two times, each with its share of the time."""
    total_s = to_s - from_s
    if total_s <= 0:
        yield _quarter(to_s), 1.0
        return
    while from_s < to_s:
        until_s = min(to_s, (math.floor(from_s / QUARTER_S) + 1) * QUARTER_S)
        yield _quarter(from_s), (until_s - from_s) / total_s
        from_s = until_s


def _quarter(at_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M", time.gmtime(at_s // QUARTER_S * QUARTER_S))


def _instant(when: str) -> datetime:
    return datetime.fromisoformat(f"{when}-01" if len(when) == MONTH else when).replace(tzinfo=timezone.utc)


def _label(at: datetime, length: int) -> str:
    return at.isoformat()[:length]

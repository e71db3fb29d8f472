"""Intensities of successive intervals of one zone."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from typing import Final

from carbon_otel.carbon.intensity import Intensity, MixedSignals, Quality, same_signal

_PREFERENCE: Final[dict[Quality, int]] = {"measured": 3, "estimated": 2, "forecast": 1, "table": 0}


def series(values: Iterable[Intensity]) -> tuple[Intensity, ...]:
    """The values by time, without overlaps: of two for one interval, a measured one counts before a forecast.

    A value that lasts beyond the start of the next one ends there.

    Raises:
        MixedSignals: for values of different signals, or of different zones.
    """
    by_start: dict[datetime, Intensity] = {}
    for value in values:
        known = by_start.get(value.start)
        if known is None or _PREFERENCE[value.quality] >= _PREFERENCE[known.quality]:
            by_start[value.start] = value
    ordered = [value for _, value in sorted(by_start.items())]
    if not ordered:
        return ()
    same_signal(ordered)
    zones = sorted({value.zone for value in ordered})
    if len(zones) > 1:
        raise MixedSignals(f"these carbon intensities are of several zones: {', '.join(zones)}")
    return tuple(
        replace(value, end=follower.start) if follower is not None and follower.start < value.end else value
        for value, follower in zip(ordered, [*ordered[1:], None], strict=True)
    )


def within(values: Sequence[Intensity], start: datetime, end: datetime) -> Iterator[tuple[Intensity, float]]:
    """The values of a series between two instants, each with its seconds there."""
    first = max(0, bisect_right(values, start, key=lambda value: value.start) - 1)
    for value in values[first:]:
        if value.start >= end:
            return
        seconds = (min(end, value.end) - max(start, value.start)).total_seconds()
        if seconds > 0:
            yield value, seconds


def instant(text: str, *, naive: bool = False) -> datetime:
    """A time of ISO 8601 in UTC; one without a time zone is UTC if `naive`.

    Raises:
        ValueError: for anything else.
    """
    # Python 3.10 reads neither Z nor offsets without a colon.
    text = text.strip()
    at = datetime.fromisoformat(f"{text[:-1]}+00:00" if text[-1:] in ("Z", "z") else text)
    if at.tzinfo is None:
        if not naive:
            raise ValueError(f"{text!r} has no time zone; write UTC with a Z, such as 2026-01-01T00:00Z")
        at = at.replace(tzinfo=timezone.utc)
    return at.astimezone(timezone.utc)


def step_of(starts: Iterable[datetime], otherwise: timedelta) -> timedelta:
    """The smallest distance between two times; `otherwise` for fewer than two."""
    times = sorted(set(starts))
    return min((later - sooner for sooner, later in pairwise(times)), default=otherwise)

"""A CSV file of the user.

============  ==================================================================================================
`start`       begin of the interval, ISO 8601 with a time zone: `2026-01-01T00:00Z`
`g_per_kwh`   grams of CO2 equivalent per kilowatt-hour, with a decimal point
`end`         its end; without this column, the interval is as long as the smallest distance between two rows
`zone`        the zone; without it, the file is for the zone that it is used for
`kind`        `average`, `marginal` or `residual`; `average` without it
`method`      `location` or `market`; `location` without it
`scope`       `direct`, `lifecycle` or `upstream`; `lifecycle` without it
`basis`       `production` or `consumption`; `production` without it
`quality`     `measured`, `estimated` or `forecast`; without it, `forecast` for what is not over, else `measured`
`low, high`   ends of the band in grams per kilowatt-hour
`source`      publication of the values; the name of the file without it
`licence`     their licence
============  ==================================================================================================

A value below 5 or above 1,500 g/kWh needs `low` and `high`: files without these often have 0 for "not known".
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, get_args

from carbon_otel.carbon.intensity import (
    Accounting,
    Basis,
    Intensity,
    Kind,
    Quality,
    Scope,
    Signal,
    same_signal,
)
from carbon_otel.clock import wall
from carbon_otel.intensity.series import instant, series, step_of, within
from carbon_otel.intensity.service import BANDS, Unavailable
from carbon_otel.provenance import Band

_CHOICES: Final = {
    "kind": get_args(Kind),
    "method": get_args(Accounting),
    "scope": get_args(Scope),
    "basis": get_args(Basis),
    "quality": ("measured", "estimated", "forecast"),
}
_COLUMNS: Final = frozenset(
    ("start", "g_per_kwh", "end", "zone", *_CHOICES, "low", "high", "source", "licence")
)
_ALWAYS: Final = datetime.min.replace(tzinfo=timezone.utc), datetime.max.replace(tzinfo=timezone.utc)
_PLAUSIBLE: Final = (5.0, 1500.0)
_LARGEST: Final = 100_000_000


class CsvFile:
    """The intensities in a file. It has the interface of `Provider`."""

    def __init__(self, path: Path) -> None:
        """Read the file. Raises ValueError, with the number of the line."""
        self.name = path.name
        self._rows = _rows(path)
        self.signal: Signal = same_signal(row for _, row in self._rows)

    def latest(self, zone: str) -> Intensity:
        """The value of the present interval. Raises Unavailable if the file has none."""
        now = datetime.fromtimestamp(wall(), timezone.utc)
        values = self.history(zone, now, now + timedelta(seconds=1))
        if not values:
            raise Unavailable(f"{self.name} has no value for {zone} now")
        return values[0]

    def history(self, zone: str, start: datetime, end: datetime) -> tuple[Intensity, ...]:
        """The values between two times. Raises ValueError for a zone that the file does not have."""
        zones = sorted({theirs for theirs, _ in self._rows if theirs})
        if zones and zone not in zones:
            raise ValueError(f"{self.name} has no zone {zone!r}, but {', '.join(zones[:10])}")
        values = series(row for theirs, row in self._rows if theirs in ("", zone))
        return tuple(value for value, _ in within(values, start, end))

    def forecast(self, zone: str, length: timedelta) -> tuple[Intensity, ...]:
        """The values from now on, as far as the file has some."""
        now = datetime.fromtimestamp(wall(), timezone.utc)
        return self.history(zone, now, now + length)

    def check(self, zone: str | None) -> list[str]:
        """What the file has for a zone; for all of its zones, if none is given.

        Raises ValueError for a zone that it lacks.
        """
        zones = [zone] if zone else sorted({theirs for theirs, _ in self._rows})
        return [note for each in zones for note in self._check(each)]

    def _check(self, zone: str) -> list[str]:
        values = self.history(zone, *_ALWAYS)
        grams = [value.g_per_kwh for value in values]
        lacking = sum(later.start > sooner.end for sooner, later in pairwise(values))
        about = f"{zone}: " if zone else ""
        notes = [
            f"{about}{len(values)} intervals from {values[0].start:%Y-%m-%d %H:%M} to "
            f"{values[-1].end:%Y-%m-%d %H:%M} UTC, {min(grams):g} to {max(grams):g} g/kWh"
        ]
        if lacking:
            notes.append(f"{about}gaps: {lacking}; energy that was used there has no price by the hour")
        try:
            notes.append(f"{about}now {self.latest(zone).g_per_kwh:g} g/kWh")
        except Unavailable:
            notes.append(
                f"{about}no value now: it can price runs, but neither follow the grid nor find a start"
            )
        return notes


def _rows(path: Path) -> list[tuple[str, Intensity]]:
    """The rows, each with its zone, which is empty in a file without that column."""
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"{path} is larger than {_LARGEST // 1_000_000} MB")
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ValueError(f"{path} cannot be read: {reason}") from None
    reader = csv.DictReader(text.splitlines())
    columns = [name.strip() for name in reader.fieldnames or ()]
    reader.fieldnames = columns
    for needed in ("start", "g_per_kwh"):
        if needed not in columns:
            raise ValueError(
                f"{path}, line 1: there is no column {needed!r}; the columns are {', '.join(columns) or 'none'}"
            )
    if unknown := sorted(set(columns) - _COLUMNS):
        raise ValueError(
            f"{path}, line 1: unknown column {unknown[0]!r}; known are {', '.join(sorted(_COLUMNS))}"
        )
    found = []
    for row in reader:
        try:
            found.append((_start(row), reader.line_num, row))
        except ValueError as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}") from None
    if not found:
        raise ValueError(f"{path} has no rows")
    step = step_of((start for start, _, _ in found), timedelta(hours=1))
    values = []
    for start, line, row in found:
        try:
            values.append(_value(row, start, step, path.name))
        except ValueError as error:
            raise ValueError(f"{path}, line {line}: {error}") from None
    return values


def _start(row: Mapping[str, Any]) -> datetime:
    if None in row:
        raise ValueError("there are more values than columns; write numbers with a decimal point")
    return _time(row, "start")


def _time(row: Mapping[str, Any], column: str) -> datetime:
    text = row[column] or ""
    try:
        return instant(text)
    except ValueError as error:
        reason = str(error) if "time zone" in str(error) else f"{text!r} is not a time of ISO 8601"
        raise ValueError(f"{column}: {reason}") from None


def _value(row: Mapping[str, Any], start: datetime, step: timedelta, name: str) -> tuple[str, Intensity]:
    given = {column: (text or "").strip() for column, text in row.items()}
    chosen = dict(_choices(given))
    end = _time(row, "end") if given.get("end") else start + step
    quality: Quality = chosen.pop("quality", "measured" if end.timestamp() <= wall() else "forecast")
    zone, grams = given.get("zone", ""), _number(given["g_per_kwh"], "g_per_kwh")
    return zone, Intensity(
        zone=zone or "of the file",
        name=zone or name,
        g_per_kwh=grams,
        start=start,
        end=end,
        band=_band(given, grams, quality),
        source=given.get("source") or name,
        licence=given.get("licence") or "unknown",
        signal=Signal(**chosen),
        quality=quality,
    )


def _choices(given: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    for column, choices in _CHOICES.items():
        if text := given.get(column, ""):
            if text not in choices:
                raise ValueError(f"{column}: {text!r} is none of {', '.join(choices)}")
            yield column, text


def _band(given: Mapping[str, str], grams: float, quality: Quality) -> Band:
    if given.get("low") and given.get("high"):
        low, high = _number(given["low"], "low"), _number(given["high"], "high")
        if not 0 <= low <= grams <= high:
            raise ValueError(f"{grams:g} g/kWh is not between low {low:g} and high {high:g}")
        if grams > 0:
            return Band(low / grams, high / grams, "columns low and high of the file", "stated")
        return Band(1.0, 1.0, "0 g/kWh, as the file states it", "stated")
    if not _PLAUSIBLE[0] <= grams <= _PLAUSIBLE[1]:
        raise ValueError(
            f"{grams:g} g/kWh is not between {_PLAUSIBLE[0]:g} and {_PLAUSIBLE[1]:g}; if it is right, give "
            "the columns low and high"
        )
    return BANDS[quality]


def _number(text: str, column: str) -> float:
    try:
        number = float(text)
    except ValueError:
        hint = "; write a decimal point" if "," in text else ""
        raise ValueError(f"{column}: {text!r} is not a number{hint}") from None
    if number != number or abs(number) == float("inf"):
        raise ValueError(f"{column}: {text!r} is not a number")
    return number

"""Carbon intensity of countries, of the EU and of the world, by year: one edition of one series.

Values are lifecycle, production-based and without grid losses. The series is revised as a whole, so all years come
from the same edition.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from typing import Final, NamedTuple

from carbon_otel.carbon.intensity import WORLD, Intensity, year_of
from carbon_otel.carbon.tables import lines, rows
from carbon_otel.provenance import Band

EUROPEAN_UNION: Final = "EU"


class Row(NamedTuple):
    """A row of `data/country_intensity.csv`."""

    zone: str
    alpha3: str
    name: str
    year: str
    g_co2e_per_kwh: str
    low: str
    high: str
    source: str
    licence: str


def code(name: str) -> str | None:
    """The zone of a country by ISO 3166 code, English name or alias, in any case; None for an unknown name."""
    return names().get(name.strip().casefold())


@functools.cache
def of_zone(zone: str, year: int | None = None) -> Intensity:
    """The intensity of a zone that the table has, in a year; None gives the newest year.

    Raises:
        ValueError: for a year that the table does not have.
    """
    years = table()[zone]
    row = years.get(next(iter(years)) if year is None else year)
    if row is None:
        known = ", ".join(map(str, sorted(years)))
        raise ValueError(f"no figure of {newest(zone).name} for {year}; the table has {known}")
    start, end = year_of(int(row.year))
    return Intensity(
        zone=row.zone,
        name=row.name,
        g_per_kwh=float(row.g_co2e_per_kwh),
        start=start,
        end=end,
        band=Band(float(row.low), float(row.high), "annual mean of a country used for one hour", "estimate"),
        source=row.source,
        licence=row.licence,
        losses="excluded",
    )


def newest(zone: str) -> Row:
    """The row of the newest year."""
    return next(iter(table()[zone].values()))


@functools.cache
def table() -> Mapping[str, Mapping[int, Row]]:
    """The rows by zone and year, newest year first."""
    by_zone: dict[str, dict[int, Row]] = {}
    # Half the time that `csv.DictReader` takes; a measurement reads the table at its start.
    for row in map(Row._make, csv.reader(lines("country_intensity.csv")[1:])):
        by_zone.setdefault(row.zone, {})[int(row.year)] = row
    return by_zone


@functools.cache
def names() -> Mapping[str, str]:
    """The zone of each name, in lower case."""
    found = {row["alias"].casefold(): row["zone"] for row in rows("zone_aliases.csv")}
    for zone in table():
        row = newest(zone)
        found |= {name.casefold(): zone for name in (row.zone, row.alpha3, row.name) if name}
    return found


def values() -> list[float]:
    """The newest intensities of all countries, in grams per kilowatt-hour."""
    return [float(newest(zone).g_co2e_per_kwh) for zone in table() if zone not in (WORLD, EUROPEAN_UNION)]

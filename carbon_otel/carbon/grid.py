"""Carbon intensity of electricity, offline: average, location-based, one figure a country and year."""

from __future__ import annotations

import csv
import difflib
import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Final

from carbon_otel.provenance import Band
from carbon_otel.units import J_PER_KWH

WORLD: Final = "WORLD"
SUGGEST: Final = "use an ISO 3166 code or country name, such as zone='FR', 'FRA' or 'France'"


@dataclass(frozen=True, slots=True)
class Intensity:
    """Grams of CO2 equivalent per kWh of a zone, with the provenance of the row.

    `band` is our choice for annual country means used for a particular hour: +-40 % for a country, +-100 % for
    the world average that stands in for an unknown zone.
    """

    zone: str
    name: str
    g_per_kwh: float
    year: int
    band: Band
    source: str
    licence: str
    kind: str = "average"


@dataclass(frozen=True, slots=True)
class EmissionFactor:
    """Joules of IT energy to grams: `E * PUE * I` (SCI, ISO/IEC 21031, operational emissions)."""

    intensity: Intensity
    pue: float = 1.0

    def emissions_g(self, joules: float) -> float:
        return joules / J_PER_KWH * self.pue * self.intensity.g_per_kwh


def intensity(zone: str | None, year: int | None = None) -> Intensity:
    """The row of a zone, by default of its newest year; the world average for None.

    Earlier years are older editions of the same series, and left out where it has been revised by more than the
    band since. Raises ValueError for a zone or a year that the tables do not have.
    """
    if zone is None:
        return _of_year(_table()[WORLD], year)
    key = zone.strip().casefold()
    row = _names().get(key)
    if row is None:
        near = difflib.get_close_matches(key, _names(), n=3)
        meant = f"; did you mean {', '.join(_names()[n].name for n in near)}?" if near else ""
        raise ValueError(f"unknown zone {zone!r}: {SUGGEST}{meant}")
    return _of_year(row, year)


def country(zone: str) -> tuple[str, str]:
    """Its name and its code of three letters, as far as the table has them."""
    rows = (row for row in _rows("country_intensity.csv") if row["zone"] == zone)
    return next(((row["name"], row["alpha3"]) for row in rows), ("", ""))


def _of_year(newest: Intensity, year: int | None) -> Intensity:
    if year is None or year == newest.year:
        return newest
    years = _earlier().get(newest.zone, {})
    if year not in years:
        known = ", ".join(str(y) for y in sorted({*years, newest.year}))
        raise ValueError(f"no figure of {newest.name} for {year}; the table has {known}")
    return years[year]


@functools.cache
def _earlier() -> Mapping[str, Mapping[int, Intensity]]:
    found: dict[str, dict[int, Intensity]] = {}
    for row in _rows("country_intensity_earlier.csv"):
        year = int(row["year"])
        found.setdefault(row["zone"], {})[year] = replace(
            _table()[row["zone"]],
            year=year,
            g_per_kwh=float(row["g_co2e_per_kwh"]),
            source=row["source"],
            licence=row["licence"],
        )
    return found


@functools.cache
def _table() -> Mapping[str, Intensity]:
    return {
        row["zone"]: Intensity(
            zone=row["zone"],
            name=row["name"],
            g_per_kwh=float(row["g_co2e_per_kwh"]),
            year=int(row["year"]),
            band=Band(
                float(row["low"]),
                float(row["high"]),
                "annual mean of a country used for one hour",
                "estimate",
            ),
            source=row["source"],
            licence=row["licence"],
        )
        for row in _rows("country_intensity.csv")
    }


@functools.cache
def _names() -> Mapping[str, Intensity]:
    names: dict[str, Intensity] = {}
    for row in _rows("country_intensity.csv"):
        for name in (row["zone"], row["alpha3"], row["name"]):
            if name:
                names[name.casefold()] = _table()[row["zone"]]
    return names


def _rows(file: str) -> list[dict[str, str]]:
    text = files("carbon_otel.carbon").joinpath(f"data/{file}").read_text("utf-8")
    return list(csv.DictReader(text.splitlines()))

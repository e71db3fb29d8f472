"""Carbon intensity of electricity from tables in the package: average, location-based, one per country and year.

No network is used. `data/country_intensity.csv` has the newest year of every zone,
`data/country_intensity_earlier.csv` the earlier years; each row has its source and licence.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Final

from carbon_otel.carbon.intensity import WORLD, Intensity, year_of
from carbon_otel.provenance import Band
from carbon_otel.units import J_PER_KWH

ZONES: Final = "an ISO 3166 code or country name, such as zone='FR', 'FRA' or 'France'"


@dataclass(slots=True)
class EmissionFactor:
    """Factor from joules of IT energy to grams of CO2 equivalent: operational emissions (SCI, ISO/IEC 21031).

    Attributes:
        intensity: carbon intensity of the grid.
        pue: power usage effectiveness of the site, at least 1.
    """

    intensity: Intensity
    pue: float = 1.0

    def emissions_g(self, joules: float) -> float:
        """Grams of CO2 equivalent: energy times PUE times intensity."""
        return joules / J_PER_KWH * self.pue * self.intensity.g_per_kwh

    def intensity_of(self, joules: float, grams: float) -> Intensity:
        """The intensity behind grams that this factor has made of joules."""
        return self.intensity


def intensity(zone: str | None, year: int | None = None) -> Intensity:
    """Look up the intensity of a zone in a year, by default the newest one; None gives the world average.

    Earlier years are from older editions of the same series. The tables leave out a year that a later edition
    revised by more than the band.

    Args:
        zone: ISO 3166 code of two or three letters, or English name, in any case.
        year: the year of the average.

    Raises:
        ValueError: for a zone or a year that the tables do not have.
    """
    if zone is None:
        return _of_year(_table()[WORLD], year)
    key = zone.strip().casefold()
    row = _names().get(key)
    if row is None:
        import difflib

        near = difflib.get_close_matches(key, _names(), n=3)
        suggestion = (
            f"; did you mean {', '.join(dict.fromkeys(_names()[n].name for n in near))}?" if near else ""
        )
        raise ValueError(f"unknown zone {zone!r}: write {ZONES}{suggestion}")
    return _of_year(row, year)


def country(zone: str) -> tuple[str, str]:
    """The name of a zone and its three-letter code; empty strings if the table has none."""
    rows = (row for row in _rows("country_intensity.csv") if row["zone"] == zone)
    return next(((row["name"], row["alpha3"]) for row in rows), ("", ""))


def country_values() -> list[float]:
    """The newest intensities of all countries, in grams per kilowatt-hour."""
    return [row.g_per_kwh for zone, row in _table().items() if zone != WORLD]


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
    by_zone: dict[str, dict[int, Intensity]] = {}
    for row in _rows("country_intensity_earlier.csv"):
        year = int(row["year"])
        by_zone.setdefault(row["zone"], {})[year] = replace(
            _table()[row["zone"]],
            start=year_of(year)[0],
            end=year_of(year)[1],
            g_per_kwh=float(row["g_co2e_per_kwh"]),
            source=row["source"],
            licence=row["licence"],
        )
    return by_zone


@functools.cache
def _table() -> Mapping[str, Intensity]:
    return {
        row["zone"]: Intensity(
            zone=row["zone"],
            name=row["name"],
            g_per_kwh=float(row["g_co2e_per_kwh"]),
            start=year_of(int(row["year"]))[0],
            end=year_of(int(row["year"]))[1],
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

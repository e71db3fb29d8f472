"""Carbon intensity of grids and areas within countries, from two tables that are never merged.

`data/grid_zones.csv` has official figures: subregions and states of the United States, provinces of Canada and
China, states of Australia, and the official figures of whole countries (`GB-GRID`). Most are direct emissions.
`data/electricity_maps_zones_odbl.csv` has the zones of Electricity Maps (`US-CAL-CISO`); its licence is
share-alike.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from carbon_otel.carbon.intensity import Intensity, Signal, year_of
from carbon_otel.carbon.tables import rows
from carbon_otel.provenance import Band

Years = Mapping[int, Intensity]
ELECTRICITY_MAPS: Final = Signal(scope="lifecycle", basis="consumption")
_UPSTREAM: Final = (
    "; plus its fuel mix times the IPCC AR5 medians, lifecycle minus direct (computed for this table)"
)


def of_zone(zone: str, year: int | None = None) -> Intensity | None:
    """The intensity of a zone, official before Electricity Maps; None for a zone that neither table has.

    Raises:
        ValueError: for a year that the table does not have.
    """
    years = official().get(zone) or electricity_maps().get(zone)
    return None if years is None else of_year(years, year)


def of_year(years: Years, year: int | None = None) -> Intensity:
    """The value of a year; None gives the newest.

    Raises:
        ValueError: for a year without a value.
    """
    newest = years[max(years)]
    if year is None:
        return newest
    if year not in years:
        known = ", ".join(map(str, sorted(years)))
        raise ValueError(f"no figure of {newest.name} for {year}; the table has {known}")
    return years[year]


def life_cycle_estimate(direct: Intensity) -> Intensity | None:
    """The direct intensity of a subregion of the United States with the upstream emissions of its fuel mix.

    None for other zones, whose mix the table does not have.
    """
    upstream_g = _upstream().get((direct.zone, direct.year))
    if upstream_g is None:
        return None
    return replace(
        direct,
        g_per_kwh=direct.g_per_kwh + upstream_g,
        signal=direct.signal._replace(scope="lifecycle"),
        quality="estimated",
        source=direct.source + _UPSTREAM,
    )


@functools.cache
def official() -> Mapping[str, Years]:
    """The official figures by zone and year."""
    found: dict[str, dict[int, Intensity]] = {}
    for row in rows("grid_zones.csv"):
        signal: Any = {"scope": row["scope"], "basis": row["basis"]}
        value = _value(row, Signal(**signal), row["losses"])
        found.setdefault(value.zone, {})[value.year] = value
    return found


@functools.cache
def electricity_maps() -> Mapping[str, Years]:
    """The zones of Electricity Maps by year: lifecycle emissions of consumption, all by one method."""
    found: dict[str, dict[int, Intensity]] = {}
    for row in rows("electricity_maps_zones_odbl.csv"):
        value = _value(row, ELECTRICITY_MAPS, "unknown")
        found.setdefault(value.zone, {})[value.year] = value
    return found


def _value(row: Mapping[str, str], signal: Signal, losses: Any) -> Intensity:
    start, end = year_of(int(row["year"]))
    return Intensity(
        zone=row["zone"],
        name=row["name"],
        g_per_kwh=float(row["g_co2e_per_kwh"]),
        start=start,
        end=end,
        band=Band(float(row["low"]), float(row["high"]), "annual mean used for one hour", "estimate"),
        source=row["source"],
        licence=row["licence"],
        signal=signal,
        losses=losses,
    )


@functools.cache
def _upstream() -> Mapping[tuple[str, int], float]:
    return {
        (row["zone"], int(row["year"])): float(row["upstream_g_per_kwh"])
        for row in rows("grid_zones.csv")
        if row["upstream_g_per_kwh"]
    }

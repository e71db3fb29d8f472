"""Cloud regions and parts of countries: grid, PUE and water, from tables in the package.

`data/cloud_regions.csv` has regions of eight providers with their grid zone and published PUE;
`data/grid_zones.csv` the intensities of zones within countries; `data/water.csv` the water that electricity
consumes. Each row has its source.
"""

from __future__ import annotations

import csv
import difflib
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

from carbon_otel.carbon.grid import country, intensity
from carbon_otel.carbon.intensity import WORLD, Intensity, Signal, year_of
from carbon_otel.provenance import Band

# Direct emissions leave out what the life cycle adds: 24 g/kWh for hydropower, 30 to 90 for fuels (IPCC AR5,
# NGA 2025).
_LIFE_CYCLE_G = 40.0


@dataclass(frozen=True, slots=True)
class CloudRegion:
    """A region of a cloud provider.

    Attributes:
        name: `provider:region`.
        place: the town or area.
        zone: of the grid: a country's code, or a zone within it.
        pue: published power usage effectiveness; None if the provider publishes none.
        pue_source: its source and year; whether it is the region's own or the fleet's.
        pue_verified: whether the source was read in the original.
        water_l_per_kwh: published water use of the site; None if unknown.
        water_source: its source.
    """

    name: str
    place: str
    zone: str
    pue: float | None
    pue_source: str
    pue_verified: bool
    water_l_per_kwh: float | None
    water_source: str


def region(name: str) -> CloudRegion:
    """The region of a cloud, such as `gcp:europe-north1`, `aws:eu-north-1`, `azure:swedencentral`.

    Raises:
        ValueError: for a name that the table lacks, with the nearest ones.
    """
    key = name.strip().lower()
    found = _regions().get(key)
    if found is None:
        near = difflib.get_close_matches(key, _regions(), n=3, cutoff=0.5)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise ValueError(f"unknown region {name!r}: write provider:region, such as gcp:europe-north1{hint}")
    return found


def zone_intensity(zone: str | None) -> Intensity:
    """The intensity of a country, or of a zone within one, such as `CA-QC`; None gives the world average.

    Raises:
        ValueError: for a zone that no table has.
    """
    row = _zones().get((zone or "").strip().upper())
    if row is None:
        return _country(zone)
    value, direct = float(row["g_co2e_per_kwh"]), row["scope"] == "direct"
    high = 1.4 + (_LIFE_CYCLE_G / value if direct else 0.0)
    about = f"annual mean; direct emissions, the life cycle adds up to {_LIFE_CYCLE_G:g} g"
    return Intensity(
        zone=row["zone"],
        name=row["zone"],
        g_per_kwh=value,
        start=year_of(int(row["year"]))[0],
        end=year_of(int(row["year"]))[1],
        band=Band(0.6, high, about if direct else "annual mean", "estimate"),
        source=f"{row['source']} ({row['scope']})",
        licence=row["licence"],
        signal=Signal(scope="direct" if direct else "lifecycle"),
    )


def _country(zone: str | None) -> Intensity:
    """Of a zone within a country that has no row of its own, the country's."""
    if zone is not None and "-" in zone and country(zone.partition("-")[0].strip().upper())[0]:
        return intensity(zone.partition("-")[0])
    return intensity(zone)


def water_of_electricity(zone: str) -> tuple[float, str]:
    """Litres of water that a kilowatt-hour consumes in a zone, and the source; of an unknown zone, the world's."""
    row = _water().get(zone.partition("-")[0], _water()[WORLD])
    return float(row["l_per_kwh"]), row["source"]


@functools.cache
def _regions() -> Mapping[str, CloudRegion]:
    found = {}
    for row in _rows("cloud_regions.csv"):
        name = f"{row['provider']}:{row['region']}"
        found[name] = CloudRegion(
            name=name,
            place=row["place"],
            zone=row["grid_zone"],
            pue=float(row["pue"]) if row["pue"] else None,
            pue_source=f"{row['pue_source']}, {row['pue_year']}, of the {row['pue_scope']}"
            if row["pue"]
            else "",
            pue_verified=row["pue_verified"] == "yes",
            water_l_per_kwh=float(row["water_l_per_kwh"]) if row["water_l_per_kwh"] else None,
            water_source=row["water_source"],
        )
    return found


@functools.cache
def _zones() -> Mapping[str, Mapping[str, str]]:
    return {row["zone"]: row for row in _rows("grid_zones.csv")}


@functools.cache
def _water() -> Mapping[str, Mapping[str, str]]:
    return {row["zone"]: row for row in _rows("water.csv")}


def _rows(file: str) -> list[dict[str, str]]:
    text = files("carbon_otel.carbon").joinpath(f"data/{file}").read_text("utf-8")
    return list(csv.DictReader(text.splitlines()))

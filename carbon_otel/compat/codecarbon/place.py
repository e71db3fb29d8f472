"""The place of a tracker: which grid its emissions are computed with."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import Final

from carbon_otel.carbon import grid, regions
from carbon_otel.carbon.grid import EmissionFactor
from carbon_otel.carbon.intensity import WORLD, Intensity
from carbon_otel.compat.codecarbon.arguments import Given
from carbon_otel.footprint import Footprint
from carbon_otel.guard import log_once
from carbon_otel.provenance import Band
from carbon_otel.records import Cost

# CodeCarbon names regions by words, the tables by the codes of ISO 3166-2.
_REGIONS: Final = {
    "alberta": "AB",
    "ontario": "ON",
    "quebec": "QC",
    "australian capital territory": "ACT",
    "new south wales": "NSW",
    "victoria": "VIC",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Attributes:
    intensity: of the grid; None if the tracker says nothing of its place, so that the measurement's counts.
    zone: the country for `instrument()`; None for the same reason, or if the country is not known.
    region: the region of the call, in small letters.
    provider: the cloud provider of the call, and `cloud_region` its region.
    """

    intensity: Intensity | None = None
    zone: str | None = None
    region: str = ""
    provider: str = ""
    cloud_region: str = ""


def place_of(given: Given) -> Place:
    """The place that the arguments name. An unknown one is logged, and the next larger one counts."""
    region, provider = given.text("region").strip().lower(), given.text("cloud_provider").strip().lower()
    cloud_region = given.text("cloud_region").strip()
    code = given.text("country_iso_code") or given.text("country_2letter_iso_code")
    found = _cloud(provider, cloud_region) if provider else None
    if found is None and code:
        found = _country(code, region)
    zone = None if found is None else found.zone.partition("-")[0]
    forced = given.number("force_carbon_intensity_g_co2e_kwh")
    if forced is not None:
        found = _forced(forced, found)
    return Place(found, None if zone == WORLD else zone, region, provider, cloud_region)


def _cloud(provider: str, region: str) -> Intensity | None:
    try:
        return grid.intensity(regions.region(f"{provider}:{region}").zone)
    except ValueError as error:
        log_once("%s; the country counts instead", error, about=(provider, region))
        return None


def _country(code: str, region: str) -> Intensity:
    try:
        of_country = grid.intensity(code)
    except ValueError as error:
        log_once("%s; the emissions use the world average", error, about=code)
        return grid.intensity(None)
    if not region:
        return of_country
    part = region.upper().removeprefix(f"{of_country.zone}-")
    zone = f"{of_country.zone}-{_REGIONS.get(region, part)}"
    try:
        return grid.intensity(zone)
    except ValueError:
        log_once("the tables have no figure for %s, so %s counts", region, of_country.name, about=region)
        return of_country


def _forced(g_per_kwh: float, found: Intensity | None) -> Intensity:
    now = datetime.now(timezone.utc)
    return Intensity(
        zone=WORLD if found is None else found.zone,
        name="a value of the user",
        g_per_kwh=g_per_kwh,
        start=now,
        end=now + timedelta(seconds=1),
        band=Band(1.0, 1.0, "none is known", "estimate"),
        source="the argument force_carbon_intensity_g_co2e_kwh",
        licence="",
    )


def at(footprint: Footprint, intensity: Intensity | None, pue: float | None) -> Footprint:
    """The footprint with the emissions of this grid and PUE; None keeps those of the measurement.

    The band of the emissions is computed as in `footprint_of`.
    """
    factor = EmissionFactor(
        intensity or footprint.intensity or grid.intensity(None), footprint.pue if pue is None else pue
    )
    if not footprint.devices or (factor.intensity, factor.pue) == (footprint.intensity, footprint.pue):
        return footprint
    joules, band = footprint.energy_j, factor.intensity.band
    grams = factor.emissions_g(joules)
    below, above = (1 - footprint.low_j / joules, footprint.high_j / joules - 1) if joules > 0 else (0.0, 0.0)
    return replace(
        footprint,
        emissions_g=grams,
        exclusive_g=factor.emissions_g(footprint.exclusive_j),
        low_g=max(0.0, grams * (1 - math.hypot(below, 1 - band.low))),
        high_g=grams * (1 + math.hypot(above, band.high - 1)),
        intensity=factor.intensity,
        pue=factor.pue,
        stages={
            kind: Cost(cost.energy_j, factor.emissions_g(cost.energy_j))
            for kind, cost in footprint.stages.items()
        },
    )

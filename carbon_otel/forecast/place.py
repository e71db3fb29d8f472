"""The grid and the site of a run: what was given, else what the tables say, else the world's range."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Final

from carbon_otel.carbon.grid import country_values, intensity
from carbon_otel.carbon.grid_zones import life_cycle_estimate
from carbon_otel.carbon.intensity import WORLD, Intensity
from carbon_otel.carbon.regions import CloudRegion, region
from carbon_otel.carbon.water import water_of_electricity
from carbon_otel.forecast.records import Assumption, Interval, Place

GIVEN: Final = "given"
_PUE: Final = Interval(1.09, 1.2, 1.54)
_PUE_SOURCE: Final = (
    "unknown site; low: Google fleet 2025 (1.09), high: Uptime Institute 2025, all ages (1.54), middle: "
    "large clouds"
)
# Direct emissions leave out what the life cycle adds: 24 g/kWh for hydropower, 30 to 90 for fuels (IPCC AR5,
# NGA 2025).
_LIFE_CYCLE_G: Final = 40.0
# Published water use of sites: Microsoft EMEA 0.03, AWS fleet 0.12 and Google fleet 1.15 litres per kWh.
_SITE_WATER: Final = Interval(0.03, 0.3, 1.15)
# Published factors of one country's electricity differ by about this much, mostly by hydropower's evaporation.
_WATER_BAND: Final = (0.4, 2.0)


@dataclass(frozen=True, slots=True)
class Site:
    """A place with its figures.

    Attributes:
        name: for people.
        g_per_kwh: carbon intensity.
        pue: power usage effectiveness.
        water_l_per_it_kwh: litres of water per kilowatt-hour of the machines.
        assumptions: all of these.
        notes: sentences for the user.
    """

    name: str
    g_per_kwh: Interval
    pue: Interval
    water_l_per_it_kwh: Interval
    assumptions: tuple[Assumption, ...]
    notes: tuple[str, ...]


def site_of(place: Place) -> Site:
    """The figures of a place.

    Raises:
        ValueError: for an unknown zone or region, a PUE below 1 or a negative figure.
    """
    cloud = None if place.region is None else region(place.region)
    zone = place.zone if place.zone is not None else (None if cloud is None else cloud.zone)
    carbon, notes = _intensity(place, zone)
    pue = _pue(place, cloud)
    water = _water(place, cloud, zone, Interval(pue.low, pue.value, pue.high))
    return Site(
        name=place.region or (zone or "unknown place"),
        g_per_kwh=Interval(carbon.low, carbon.value, carbon.high),
        pue=Interval(pue.low, pue.value, pue.high),
        water_l_per_it_kwh=Interval(water.low, water.value, water.high),
        assumptions=(pue, carbon, water),
        notes=notes,
    )


def _intensity(place: Place, zone: str | None) -> tuple[Assumption, tuple[str, ...]]:
    given = place.intensity_g_per_kwh
    name, unit = "carbon intensity", "g/kWh"
    if given is not None:
        return _given(name, given, unit, 0.0), ()
    found, notes = _life_cycle(intensity(zone))
    source = f"{found.name}, {found.year}: {found.source}"
    if found.zone == WORLD:
        low, high = _world()
        note = "the place is unknown: give zone, region or intensity; the world's range is a factor of ten"
        return Assumption(name, found.g_per_kwh, low, high, unit, source + "; range: countries", False), (
            note,
        )
    value = found.g_per_kwh
    high = value * found.band.high + (_LIFE_CYCLE_G if found.signal.scope == "direct" else 0.0)
    # The figures of zones within countries were read in the hands of others.
    verified = "-" not in found.zone
    return Assumption(name, value, value * found.band.low, high, unit, source, verified), notes


def _life_cycle(found: Intensity) -> tuple[Intensity, tuple[str, ...]]:
    """The intensity with the life cycle of the power plants, as countries have it, and a note where it differs."""
    if found.signal.scope == "lifecycle":
        return found, ()
    estimate = life_cycle_estimate(found)
    if estimate is None:
        left_out = f"the intensity of {found.zone} leaves out the life cycle of its power plants"
        return found, (left_out,)
    measured = f"a measurement in {found.zone} is charged the direct emissions of {found.g_per_kwh:g} g/kWh; "
    return estimate, (measured + "this forecast adds an estimate of the life cycle of its power plants",)


def _world() -> tuple[float, float]:
    """The 10th and 90th percentile of the countries."""
    tenths = statistics.quantiles(country_values(), n=10)
    return tenths[0], tenths[-1]


def _pue(place: Place, cloud: CloudRegion | None) -> Assumption:
    name = "PUE"
    if place.pue is not None:
        return _given(name, place.pue, "", 1.0)
    if cloud is None or cloud.pue is None:
        return Assumption(name, _PUE.p50, _PUE.p10, _PUE.p90, "", _PUE_SOURCE, False)
    low, high = cloud.pue.pue_range
    return Assumption(name, cloud.pue.value, low, high, "", str(cloud.pue), cloud.pue.checked == "read")


def _water(place: Place, cloud: CloudRegion | None, zone: str | None, pue: Interval) -> Assumption:
    """Site and electricity: WUE + PUE x the water of a kilowatt-hour (Li et al., arXiv 2304.03271)."""
    name, unit = "water per kWh of the machines", "L/kWh"
    if place.water_l_per_kwh is not None:
        return _given(name, place.water_l_per_kwh, unit, 0.0)
    litres, source = water_of_electricity(intensity(zone).zone)
    site = _SITE_WATER
    if cloud is not None and cloud.water_l_per_kwh is not None:
        site = Interval.exact(cloud.water_l_per_kwh)
        source = f"{source}; site: {cloud.water_source}"
    low, high = _WATER_BAND
    whole = pue.times(litres) * Interval(low, 1.0, high) + site
    return Assumption(name, whole.p50, whole.p10, whole.p90, unit, source, False)


def _given(name: str, value: float, unit: str, least: float) -> Assumption:
    if not least <= value < float("inf"):
        raise ValueError(f"{name} is {value}; write a number of at least {least:g}")
    return Assumption(name, value, value, value, unit, GIVEN)

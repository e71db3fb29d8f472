"""The same measured energy in every cloud region: emissions there, compared with those where it was used.

Only like is compared with like: all intensities are lifecycle emissions of consumption, of one year, by the method
of Electricity Maps, also for the place where the energy was used. The energy is the same everywhere, so the bands
of grid and PUE alone decide whether two places differ; in the same zone, that of the PUE alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from carbon_otel.carbon.grid_zones import electricity_maps
from carbon_otel.carbon.intensity import Intensity, mean, same_signal
from carbon_otel.carbon.regions import CloudRegion, region, regions
from carbon_otel.carbon.site import NOT_GIVEN
from carbon_otel.frames import frame_of
from carbon_otel.lifecycle.entry import Entry
from carbon_otel.lifecycle.ledger import Ledger
from carbon_otel.lifecycle.report import report_of
from carbon_otel.lifecycle.total import Total
from carbon_otel.mlflow.schema import names
from carbon_otel.mlflow.schema.places import Place
from carbon_otel.provenance import Band, quadrature
from carbon_otel.units import KILO

if TYPE_CHECKING:
    import pandas

Difference = Literal["less", "more", "within the bands"]

# A large cloud that publishes no PUE: fleets of large clouds and the survey of all ages (Uptime Institute 2025).
_PUE: Final = 1.15
_PUE_RANGE: Final = (1.05, 1.54)
_PUE_SOURCE: Final = "not published; range of large clouds to all data centres"
_EARTH_KM: Final = 6371.0
# Light in glass takes a millisecond for 200 km.
_KM_PER_MS: Final = 200.0


class Factor(NamedTuple):
    """Grams of CO2 equivalent for a kilowatt-hour of the machines, with the band of grid and PUE."""

    g_per_kwh: float
    low: float
    high: float


class _Base(NamedTuple):
    """Where the energy was used."""

    name: str
    zones: frozenset[str]
    factor: Factor
    pue: float
    pue_range: tuple[float, float]
    coordinates: tuple[float, float] | None
    grids: Sequence[Intensity]


@dataclass(frozen=True, slots=True)
class Here:
    """The place where the energy was used, priced by the same table as the others.

    Attributes:
        name: the cloud region, else the zones.
        g_per_kwh: carbon intensity, the mean by energy.
        pue: power usage effectiveness, the mean by energy.
        emissions_g: grams of CO2 equivalent; the logged ones may be of another table.
        low_g: lower end of the band, that of the energy included.
        high_g: upper end of it.
    """

    name: str
    g_per_kwh: float
    pue: float
    emissions_g: float
    low_g: float
    high_g: float


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """The energy in one cloud region.

    Attributes:
        region: `provider:region`.
        place: the town or area.
        zone: the zone of Electricity Maps.
        g_per_kwh: its carbon intensity.
        pue: published power usage effectiveness, or that of a large cloud.
        pue_source: of which sites and which year.
        emissions_g: grams of CO2 equivalent.
        low_g: lower end of the band: energy, grid and PUE.
        high_g: upper end of it.
        ratio: emissions over those here; None if those here are not comparable.
        difference: whether they are `less` or `more` than here by more than the bands of grid and PUE, or in the
            same zone by more than that of the PUE.
        cfe: share of carbon-free energy by the hour, contracts included; None if it is not published.
        distance_km: great-circle distance from here; None if a place is not known.
        round_trip_ms: least time for light in glass there and back; routes take up to twice that.
    """

    region: str
    place: str
    zone: str
    g_per_kwh: float
    pue: float
    pue_source: str
    emissions_g: float
    low_g: float
    high_g: float
    ratio: float | None
    difference: Difference | None
    cfe: float | None
    distance_km: float | None
    round_trip_ms: float | None


COLUMNS: Final = tuple(field.name for field in fields(Elsewhere))


@dataclass(frozen=True, slots=True)
class Where:
    """A ledger's energy in every region, the cleanest first.

    Attributes:
        title: the name that was asked for, and its experiment or lineage.
        energy_wh: measured energy of all entries, with its band `low_wh` to `high_wh`.
        logged_g: the emissions as logged, which may be by other tables.
        here: where the energy was used; None if that is not comparable.
        why_not_here: the reason of that; else empty.
        regions: the comparable regions.
        not_comparable: the other regions, each with the reason.
        lower_bounds: runs that may have used more than their figures, each with the reason.
        signal: what all intensities count.
        year: of all intensities.
        source: of all intensities, with its licence.
    """

    title: str
    energy_wh: float
    low_wh: float
    high_wh: float
    logged_g: float
    here: Here | None
    why_not_here: str
    regions: tuple[Elsewhere, ...]
    not_comparable: tuple[str, ...]
    lower_bounds: tuple[str, ...]
    signal: str
    year: int
    source: str

    def __repr__(self) -> str:
        from carbon_otel.lifecycle.shown import summary_of_where

        return f"Where({summary_of_where(self)})"

    def _repr_html_(self) -> str:
        """The comparison for a notebook."""
        from carbon_otel.lifecycle.shown import card_of_where
        from carbon_otel.notebook.card import html

        return html(card_of_where(self))

    def as_dict(self) -> dict[str, Any]:
        """The comparison in plain types, ready for JSON."""
        return asdict(self)

    def rows(self) -> list[dict[str, Any]]:
        """One flat row per region."""
        return [asdict(each) for each in self.regions]

    def to_frame(self) -> pandas.DataFrame:
        """`rows()` as a pandas frame. Raises ImportError without pandas, which MLflow depends on."""
        return frame_of(self.rows(), COLUMNS)


def where_of(ledger: Ledger, clouds: Sequence[str] = (), here: str | None = None) -> Where:
    """The energy of a ledger in the regions of the clouds, by default of all.

    Args:
        ledger: the measured runs.
        clouds: providers, such as `gcp`.
        here: the cloud region in which the runs ran, where they have not recorded it.

    Raises:
        ValueError: for an unknown provider or region, or entries without energy.
    """
    candidates = _of(clouds)
    own = None if here is None else region(here)
    report, year = report_of(ledger), max(max(years) for years in electricity_maps().values())
    total = report.total
    if total.energy_wh <= 0:
        raise ValueError(f"{ledger.title}: its runs have no energy to move")
    found = _grids(year)
    priced = [each for each in candidates if each.em_zone in found]
    base = _base(ledger.entries, own, found, year)
    compared = [found[each.em_zone] for each in priced]
    signal = same_signal(compared if isinstance(base, str) else [*compared, *base.grids])
    elsewhere = [_elsewhere(each, found[each.em_zone], total, base) for each in priced]
    return Where(
        title=ledger.title,
        energy_wh=total.energy_wh,
        low_wh=total.low_wh,
        high_wh=total.high_wh,
        logged_g=total.emissions_g,
        here=None if isinstance(base, str) else _priced(base, total),
        why_not_here=base if isinstance(base, str) else "",
        regions=tuple(sorted(elsewhere, key=lambda each: (each.emissions_g, each.region))),
        not_comparable=tuple(
            f"{each.name}: {_no_zone(each.em_zone, year)}" for each in candidates if each not in priced
        ),
        lower_bounds=report.lower_bounds,
        signal=str(signal),
        year=year,
        source=f"{compared[0].source}, {compared[0].licence}",
    )


def distance_km(one: tuple[float, float], other: tuple[float, float]) -> float:
    """The great-circle distance of two places in degrees north and east (haversine, a sphere of 6,371 km)."""
    (north, east), (other_north, other_east) = (tuple(map(math.radians, place)) for place in (one, other))
    haversine = (
        math.sin((other_north - north) / 2) ** 2
        + math.cos(north) * math.cos(other_north) * math.sin((other_east - east) / 2) ** 2
    )
    return 2 * _EARTH_KM * math.asin(min(1.0, math.sqrt(haversine)))


def _of(clouds: Sequence[str]) -> list[CloudRegion]:
    known = dict.fromkeys(each.provider for each in regions().values())
    wrong = [cloud for cloud in clouds if cloud not in known]
    if wrong:
        raise ValueError(f"unknown cloud {', '.join(wrong)}; write some of {', '.join(known)}")
    return [each for each in regions().values() if not clouds or each.provider in clouds]


def _grids(year: int) -> dict[str, Intensity]:
    """The zones that have an intensity of that year."""
    return {zone: years[year] for zone, years in electricity_maps().items() if year in years}


def _no_zone(zone: str, year: int) -> str:
    return f"Electricity Maps has no zone {zone} of {year}"


def _base(
    entries: Sequence[Entry], own: CloudRegion | None, found: Mapping[str, Intensity], year: int
) -> _Base | str:
    """Where the entries were measured, or the reason why that is not comparable."""
    # A run that has moved counts at each of its places.
    stays = [place for entry in entries for place in entry.places]
    zones = [_em_zone(place) if own is None else own.em_zone for place in stays]
    missing = sorted({zone for zone in zones if zone not in found})
    if missing:
        reason = _no_zone(", ".join(missing), year)
        return f"{reason}; name the region in which the runs ran, such as aws:eu-west-3 (here, or --here)"
    grids = [found[zone] for zone in zones]
    at = own or _common_region(stays)
    recorded_wh = [place.energy_wh * names.pue(place.tags) for place in stays]
    pue = sum(recorded_wh) / sum(place.energy_wh for place in stays)
    # A machine whose PUE nobody has given may be at home or in a data centre.
    is_given = all(place.tags.get(names.PUE_SOURCE, NOT_GIVEN) != NOT_GIVEN for place in stays)
    pue_range = (pue, pue) if is_given else (pue, max(pue, _PUE_RANGE[1]))
    if own is not None and own.pue is not None:
        pue, pue_range = own.pue.value, own.pue.pue_range
    name = ", ".join(dict.fromkeys(zones)) if at is None else at.name
    factor = _factor(mean(grids, recorded_wh), grids[0].band, pue, pue_range)
    coordinates = None if at is None else at.coordinates
    return _Base(name, frozenset(zones), factor, pue, pue_range, coordinates, grids)


def _em_zone(place: Place) -> str:
    """The zone of Electricity Maps of a place, as far as its tags say; else its zone."""
    known = regions().get(place.tags.get(names.REGION, ""))
    zone = place.tags.get("carbon.zone", "unknown")
    if known is not None and zone in (known.zone, known.country):
        return known.em_zone
    return zone.removesuffix("-GRID")  # the official figure of a whole country


def _common_region(stays: Sequence[Place]) -> CloudRegion | None:
    """The region that is recorded for all places."""
    recorded = {place.tags.get(names.REGION, "") for place in stays}
    return regions().get(recorded.pop()) if len(recorded) == 1 else None


def _factor(g_per_kwh: float, band: Band, pue: float, pue_range: tuple[float, float]) -> Factor:
    value = g_per_kwh * pue
    below = quadrature([1 - band.low, 1 - pue_range[0] / pue])
    above = quadrature([band.high - 1, pue_range[1] / pue - 1])
    return Factor(value, value * max(0.0, 1 - below), value * (1 + above))


def _elsewhere(each: CloudRegion, grid: Intensity, total: Total, base: _Base | str) -> Elsewhere:
    here = None if isinstance(base, str) else base
    if each.pue is None:
        pue, pue_range, source = _PUE, _PUE_RANGE, _PUE_SOURCE
    else:
        pue, pue_range, source = each.pue.value, each.pue.pue_range, str(each.pue)
    factor = _factor(grid.g_per_kwh, grid.band, pue, pue_range)
    emissions_g, low_g, high_g = _emissions(factor, total)
    difference: Difference | None = None
    if here is not None and here.zones == {each.em_zone}:
        difference = _difference(pue_range, here.pue_range)
    elif here is not None:
        difference = _difference((factor.low, factor.high), (here.factor.low, here.factor.high))
    far = None
    if here is not None and here.coordinates is not None and each.coordinates is not None:
        far = distance_km(here.coordinates, each.coordinates)
    return Elsewhere(
        region=each.name,
        place=each.place,
        zone=each.em_zone,
        g_per_kwh=grid.g_per_kwh,
        pue=pue,
        pue_source=source,
        emissions_g=emissions_g,
        low_g=low_g,
        high_g=high_g,
        ratio=None if here is None else factor.g_per_kwh / here.factor.g_per_kwh,
        difference=difference,
        cfe=None if each.cfe is None else each.cfe.value,
        distance_km=far,
        round_trip_ms=None if far is None else 2 * far / _KM_PER_MS,
    )


def _difference(there: tuple[float, float], here: tuple[float, float]) -> Difference:
    """Of two ranges, lowest and highest."""
    if there[1] < here[0]:
        return "less"
    return "more" if there[0] > here[1] else "within the bands"


def _emissions(factor: Factor, total: Total) -> tuple[float, float, float]:
    """Grams with their band: those of energy and of the factor in quadrature."""
    grams = total.energy_wh / KILO * factor.g_per_kwh
    below = quadrature([1 - factor.low / factor.g_per_kwh, 1 - total.low_wh / total.energy_wh])
    above = quadrature([factor.high / factor.g_per_kwh - 1, total.high_wh / total.energy_wh - 1])
    return grams, grams * max(0.0, 1 - below), grams * (1 + above)


def _priced(base: _Base, total: Total) -> Here:
    return Here(base.name, base.factor.g_per_kwh / base.pue, base.pue, *_emissions(base.factor, total))

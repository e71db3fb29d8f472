"""Sums of footprints.

The parts of a sum must not overlap: a stage contains its children, and two programs that ran at once on one host
may both have counted it. Neither can be seen in the figures.

Deviations with a common cause add up, and others combine in quadrature (GUM, JCGM 100:2008, 5.1.2 and F.1.2). The
sensors of a footprint's devices are one cause, because they err alike each time; so is the intensity of a grid.
Footprints that share some of their devices count as one cause, which is cautious.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast

from carbon_otel.provenance import Band, Method, combined, quadrature
from carbon_otel.records import Cost
from carbon_otel.units import J_PER_KWH

if TYPE_CHECKING:
    from carbon_otel.carbon.intensity import Intensity
    from carbon_otel.carbon.life_cycle import Embodied, Market
    from carbon_otel.carbon.water import Water
    from carbon_otel.footprint import Footprint

_K = TypeVar("_K")
_V = TypeVar("_V")


class _Off(NamedTuple):
    """How far the joules and the grams may be off, below and above."""

    below_j: float = 0.0
    above_j: float = 0.0
    below_g: float = 0.0
    above_g: float = 0.0

    def plus(self, other: _Off) -> _Off:
        return _Off(*map(sum, zip(self, other, strict=True)))


@dataclass(frozen=True, slots=True)
class Deviations:
    """The deviations of a sum by their causes: the ids of devices, and the zones of grids."""

    devices: Mapping[frozenset[str], _Off]
    grids: Mapping[str, _Off]

    def plus(self, other: Deviations) -> Deviations:
        devices = dict(self.devices)
        for ids, off in other.devices.items():
            alike = [known for known in devices if known & ids or known == ids]
            for known in alike:
                off, ids = off.plus(devices.pop(known)), ids | known
            devices[ids] = off
        return Deviations(devices, _sums(self.grids, other.grids, _Off(), _Off.plus))

    def together(self) -> _Off:
        """All of them in quadrature."""
        return _Off(*map(quadrature, zip(*self.devices.values(), *self.grids.values(), strict=True)))


def added(first: Footprint, second: Footprint) -> Footprint:
    """Two measurements that do not overlap, as one.

    A part that was not measured makes the sum a lower bound: its high ends are infinite, and it has the flag
    `not_measured`. Where two grids have priced the parts, the sum has no `intensity`; what only one of them knows,
    such as its embodied carbon, is unknown for the sum.
    """
    if math.isnan(first.energy_j) and math.isnan(second.energy_j):
        return replace(
            first,
            duration_s=first.duration_s + second.duration_s,
            units=_sums(first.units, second.units, 0.0, operator.add),
        )
    deviations = _deviations(first).plus(_deviations(second))
    off = deviations.together()
    one, two = _or_nothing(first), _or_nothing(second)
    energy_j, grams = one.energy_j + two.energy_j, one.emissions_g + two.emissions_g
    pue = _mean(one.pue, one.energy_j, two.pue, two.energy_j)
    return replace(
        one,
        energy_j=energy_j,
        exclusive_j=one.exclusive_j + two.exclusive_j,
        emissions_g=grams,
        exclusive_g=one.exclusive_g + two.exclusive_g,
        low_j=max(0.0, energy_j - off.below_j),
        high_j=energy_j + off.above_j,
        low_g=max(0.0, grams - off.below_g),
        high_g=grams + off.above_g,
        duration_s=one.duration_s + two.duration_s,
        measured_fraction=_mean(
            one.measured_fraction,
            one.energy_j,
            two.measured_fraction,
            two.energy_j,
            without=min(one.measured_fraction, two.measured_fraction),
        ),
        method=combined(cast("set[Method]", {*first.method.split("+"), *second.method.split("+")})),
        devices=_sums(one.devices, two.devices, 0.0, operator.add),
        devices_inclusive=_sums(one.devices_inclusive, two.devices_inclusive, 0.0, operator.add),
        components=_sums(one.components, two.components, 0.0, operator.add),
        intensity=_intensity(one, two, energy_j * pue, grams),
        pue=pue,
        pue_source=_joined(one.pue_source, two.pue_source),
        region=_joined(one.region, two.region),
        units=_sums(one.units, two.units, 0.0, operator.add),
        gap_s=one.gap_s + two.gap_s,
        flags=_union(first.flags, second.flags),
        missing=_union(one.missing, two.missing),
        stages=_sums(one.stages, two.stages, Cost(0.0, 0.0), _costs),
        shares={
            rule: _mean(one.shares[rule], one.duration_s, two.shares[rule], two.duration_s)
            for rule in one.shares
            if rule in two.shares
        },
        embodied=_embodied(one.embodied, two.embodied),
        embodied_unknown=_union(one.embodied_unknown, two.embodied_unknown),
        market=_market(one.market, two.market),
        water=_water(one.water, two.water),
        deviations=deviations,
    )


def _or_nothing(footprint: Footprint) -> Footprint:
    """The footprint, with no figures if it was not measured."""
    if not math.isnan(footprint.energy_j):
        return footprint
    return replace(footprint, energy_j=0.0, exclusive_j=0.0, emissions_g=0.0, exclusive_g=0.0)


def _deviations(footprint: Footprint) -> Deviations:
    if footprint.deviations is not None:
        return footprint.deviations
    if math.isnan(footprint.energy_j):
        return Deviations({frozenset(): _Off(above_j=math.inf, above_g=math.inf)}, {})
    joules, grams = footprint.energy_j, footprint.emissions_g
    below_j, above_j = joules - footprint.low_j, footprint.high_j - joules
    below_g, above_g = grams - footprint.low_g, footprint.high_g - grams
    # The band of the grams has the deviations of energy and intensity in quadrature.
    g_per_j = grams / joules if joules > 0 else 0.0
    by_energy = min(below_g, below_j * g_per_j), min(above_g, above_j * g_per_j)
    by_grid = [
        math.sqrt(max(0.0, whole**2 - part**2)) if math.isfinite(whole) else 0.0
        for whole, part in zip((below_g, above_g), by_energy, strict=True)
    ]
    zone = "" if footprint.intensity is None else footprint.intensity.zone
    return Deviations(
        {frozenset(footprint.devices_inclusive): _Off(below_j, above_j, *by_energy)},
        {zone: _Off(0.0, 0.0, *by_grid)},
    )


def _intensity(one: Footprint, two: Footprint, priced_j: float, grams: float) -> Intensity | None:
    """The intensity behind both: that of one grid, the mean of one grid at two times, or None for two grids."""
    first, second = one.intensity, two.intensity
    if not one.energy_j or not two.energy_j:
        return second if two.energy_j else first
    if first is None or second is None or first == second:
        return first if first == second else None
    alike = (first.zone, first.signal, first.losses) == (second.zone, second.signal, second.losses)
    if not alike or first.source != second.source:
        return None
    band = first.band
    return replace(
        first,
        g_per_kwh=grams / priced_j * J_PER_KWH,
        start=min(first.start, second.start),
        end=max(first.end, second.end),
        band=Band(
            min(band.low, second.band.low), max(band.high, second.band.high), band.source, band.coverage
        ),
    )


def _embodied(one: Embodied | None, two: Embodied | None) -> Embodied | None:
    if one is None or two is None:
        return None
    return one._replace(
        g=one.g + two.g,
        exclusive_g=one.exclusive_g + two.exclusive_g,
        low_g=one.low_g + two.low_g,
        high_g=one.high_g + two.high_g,
        by_kind=_sums(one.by_kind, two.by_kind, 0.0, operator.add),
        lifetime_years=_mean(one.lifetime_years, one.g, two.lifetime_years, two.g),
        source=_joined(one.source, two.source),
    )


def _market(one: Market | None, two: Market | None) -> Market | None:
    """None where two contracts have priced the parts, too."""
    if one is None or two is None or one.intensity != two.intensity:
        return None
    return one._replace(g=one.g + two.g, exclusive_g=one.exclusive_g + two.exclusive_g)


def _water(one: Water | None, two: Water | None) -> Water | None:
    if one is None or two is None:
        return None
    return one._replace(
        litres=one.litres + two.litres,
        low=one.low + two.low,
        high=one.high + two.high,
        source=_joined(one.source, two.source),
    )


def _costs(one: Cost, two: Cost) -> Cost:
    return Cost(one.energy_j + two.energy_j, one.emissions_g + two.emissions_g)


def _sums(
    one: Mapping[_K, _V], two: Mapping[_K, _V], nothing: _V, plus: Callable[[_V, _V], _V]
) -> dict[_K, _V]:
    return {key: plus(one.get(key, nothing), two.get(key, nothing)) for key in dict.fromkeys([*one, *two])}


def _union(one: Iterable[str], two: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({*one, *two}))


def _joined(one: str, two: str) -> str:
    return "; ".join(dict.fromkeys(part for part in (*one.split("; "), *two.split("; ")) if part))


def _mean(
    one: float, one_weight: float, two: float, two_weight: float, without: float | None = None
) -> float:
    """The mean by weight; without any weight, the first one or `without`."""
    weight = one_weight + two_weight
    if weight > 0:
        return (one * one_weight + two * two_weight) / weight
    return one if without is None else without

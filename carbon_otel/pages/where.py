"""The page of `carbon-otel where`: the same energy in every cloud region."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from carbon_otel.lifecycle.where import Elsewhere, Where
from carbon_otel.pages import charts
from carbon_otel.pages.environment import Made, render

_SHOWN: Final = 20
_COLUMNS: Final = 44
_ROOM: Final = 0.05  # of a decade, at the ends of the axis


class PlaceRow(NamedTuple):
    """A region with its bar: emissions and their band in percent of the longest."""

    place: Elsewhere
    bar: charts.Range


class Dot(NamedTuple):
    """A region: its place in percent of the axis, and how many are below it."""

    x: float
    level: int
    difference: str | None


class Swarm(NamedTuple):
    """All regions on one logarithmic axis of emissions; `height` is in pixels."""

    dots: Sequence[Dot]
    ticks: Sequence[charts.Mark]
    here: charts.Range | None
    height: int


def page(where: Where, made: Made) -> str:
    """The page."""
    counts = {
        kind: sum(each.difference == kind for each in where.regions)
        for kind in ("less", "more", "within the bands")
    }
    sections = {"axis": "All regions", "places": "The cleanest regions", "notes": "How to read it"}
    return render(
        "where.html",
        made,
        title=where.title,
        sections=sections,
        where=where,
        counts=counts,
        rows=rows_of(where.regions[:_SHOWN]),
        more_rows=rows_of(where.regions[_SHOWN:]),
        swarm=_swarm(where),
        emissions_scale=charts.emissions_scale,
    )


def rows_of(places: Sequence[Elsewhere]) -> list[PlaceRow]:
    """Regions with their bars on one axis."""
    drawn = charts.ranges([(each.emissions_g, each.low_g, each.high_g) for each in places])
    return [PlaceRow(each, bar) for each, bar in zip(places, drawn, strict=True)]


def _swarm(where: Where) -> Swarm:
    """The regions in columns, those of one column above each other."""
    grams = [each.emissions_g for each in where.regions]
    here = [] if where.here is None else [where.here.low_g, where.here.emissions_g, where.here.high_g]
    known = [math.log10(each) for each in (*grams, *here) if each > 0]
    low, high = min(known) - _ROOM, max(known) + _ROOM

    def x(value: float) -> float:
        return charts.between(math.log10(value), low, high) if value > 0 else 0.0

    levels: Counter[int] = Counter()
    dots = []
    for each in where.regions:
        column = min(_COLUMNS - 1, int(x(each.emissions_g) * _COLUMNS / 100))
        dots.append(Dot(100 * (column + 0.5) / _COLUMNS, levels[column], each.difference))
        levels[column] += 1
    spot = None
    if where.here is not None:
        spot = charts.Range(x(where.here.emissions_g), x(where.here.low_g), x(where.here.high_g))
    decades = range(math.ceil(low), math.floor(high) + 1)
    values = [nice * 10.0**decade for decade in (math.floor(low), *decades) for nice in (1, 2, 5)]
    ticks = [
        charts.Mark(x(value), _round(value))
        for value in dict.fromkeys(values)
        if low <= math.log10(value) <= high
    ]
    return Swarm(dots, ticks, spot, 11 * max(levels.values(), default=1) + 8)


def _round(grams: float) -> str:
    """A round number with its unit, without zeros at its end."""
    scale = charts.emissions_scale([grams])
    return f"{grams * scale.factor / scale.unit.size:g} {scale.name}"

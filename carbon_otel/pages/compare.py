"""The page of `carbon-otel compare`: what runs have cost, and whether they differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from carbon_otel.lifecycle.comparison import RunCost
from carbon_otel.pages import charts
from carbon_otel.pages.environment import Made, render

_MOST_LINES: Final = 50
_MEASURED_BY: Final = (
    "method",
    "attribution",
    "zone",
    "intensity_g_per_kwh",
    "intensity_source",
    "pue",
    "hardware",
)


class Row(NamedTuple):
    """A run with its bars; the upper end of a lower bound is infinite."""

    cost: RunCost
    high_wh: float
    high_g: float
    energy: charts.Range
    emissions: charts.Range
    quality: float | None
    is_best: bool


class Dot(NamedTuple):
    """A run in the chart of quality against emissions, in percent from the left and from below."""

    x: float
    y: float
    name: str
    is_best: bool


class Quality(NamedTuple):
    """The axis of the quality metric and of the emissions."""

    metric: str
    dots: Sequence[Dot]
    qualities: Sequence[charts.Mark]
    emissions: Sequence[charts.Mark]
    unit: str


def page(
    costs: Sequence[RunCost],
    verdicts: Sequence[str],
    not_alike: Sequence[str],
    unreadable: Sequence[str],
    made: Made,
    *,
    metric: str | None = None,
    lower_is_better: bool = False,
    quality: Mapping[str, float] | None = None,
    front: frozenset[str] = frozenset(),
) -> str:
    """The page. `quality` has the metric by run id; `front` the ids of the runs that no other beats."""
    rows = _rows(costs, quality or {}, front)
    chart = None if metric is None else _chart(rows, metric)
    sections = {
        "figures": "Figures",
        "quality": "Quality and emissions" if chart else "",
        "alike": "Measured alike?",
    }
    measured = {
        name.replace("_", " "): [cost.tags.get(f"carbon.{name}", "unknown") for cost in costs]
        for name in _MEASURED_BY
    }
    return render(
        "compare.html",
        made,
        title=f"{len(costs)} runs compared",
        sections={name: title for name, title in sections.items() if title},
        rows=rows,
        verdicts=verdicts[:_MOST_LINES],
        more_verdicts=len(verdicts[_MOST_LINES:]),
        not_alike=not_alike[:_MOST_LINES],
        more_not_alike=len(not_alike[_MOST_LINES:]),
        unreadable=unreadable[:_MOST_LINES],
        metric=metric,
        better="lower" if lower_is_better else "higher",
        chart=chart,
        alike={name: values[0] for name, values in measured.items() if len(set(values)) == 1},
        unlike={name: values for name, values in measured.items() if len(set(values)) > 1},
        nan=math.isnan,
    )


def _rows(costs: Sequence[RunCost], quality: Mapping[str, float], front: frozenset[str]) -> list[Row]:
    highs = [(math.inf, math.inf) if cost.lower_bound else (cost.high_wh, cost.high_g) for cost in costs]
    energies = charts.ranges(
        [(cost.energy_wh, cost.low_wh, high) for cost, (high, _) in zip(costs, highs, strict=True)]
    )
    emissions = charts.ranges(
        [(cost.emissions_g, cost.low_g, high) for cost, (_, high) in zip(costs, highs, strict=True)]
    )
    return [
        Row(cost, *high, wh, grams, quality.get(cost.run_id), cost.run_id in front)
        for cost, high, wh, grams in zip(costs, highs, energies, emissions, strict=True)
    ]


def _chart(rows: Sequence[Row], metric: str) -> Quality | None:
    """The runs that have the metric; None for fewer than two."""
    known = [
        (row, row.quality)
        for row in rows
        if row.quality is not None and math.isfinite(row.quality) and math.isfinite(row.cost.emissions_g)
    ]
    if len(known) < 2:
        return None
    low, high = min(value for _, value in known), max(value for _, value in known)
    margin = 0.12 * (high - low) or abs(high) * 0.1 or 1.0
    most = 1.12 * max(row.cost.emissions_g for row, _ in known) or 1.0
    scale = charts.emissions_scale([most])
    dots = [
        Dot(
            charts.between(row.cost.emissions_g, 0.0, most),
            charts.between(value, low - margin, high + margin),
            row.cost.name,
            row.is_best,
        )
        for row, value in known
    ]
    qualities = [
        charts.Mark(charts.between(value, low - margin, high + margin), f"{value:.4g}")
        for value in dict.fromkeys((low, high))
    ]
    return Quality(metric, dots, qualities, charts.ticks(most, scale), scale.name)

"""Reports and comparisons of places for people: one line, and the card of a notebook."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from carbon_otel.notebook.card import Card, Figure, Row, co2e, share
from carbon_otel.quantities import duration, emissions, energy
from carbon_otel.records import RUN, UNATTRIBUTED
from carbon_otel.units import J_PER_WH, KILO

if TYPE_CHECKING:
    from carbon_otel.lifecycle.comparison import RunCost
    from carbon_otel.lifecycle.report import Report
    from carbon_otel.lifecycle.where import Elsewhere, Where

_MOST_ATTEMPTS: Final = 12
_MOST_REGIONS: Final = 8
_KINDS: Final = {RUN: "runs, outside of stages", UNATTRIBUTED: "outside of stages"}


def summary(report: Report) -> str:
    """One line."""
    return (
        f"{report.title!r}, {energy(*_energy(report))}, {co2e(report.total.emissions_g)}, "
        f"{share(report.measured_fraction, 1.0) or '0%'} measured, {_count(len(report.entries), 'entry')}"
    )


def card(report: Report) -> Card:
    """The card of a report."""
    total = report.total
    high_g = math.inf if report.lower_bounds else total.high_g
    kinds = sorted(report.by_stage.items(), key=lambda each: (each[0] in _KINDS, -each[1].energy_wh))
    return Card(
        report.title,
        energy=_energy(report),
        emissions=Figure(total.emissions_g, total.low_g, high_g),
        texts=(_count(len(report.entries), "entry"),),
        of="stage",
        rows=[
            Row(
                _KINDS.get(kind, kind.replace("_", " ")),
                cost.energy_wh * J_PER_WH,
                cost.emissions_g,
                quiet=kind in _KINDS,
            )
            for kind, cost in kinds
        ],
        facts=tuple(_facts(report)),
        more=tuple(_details(report)),
    )


def _energy(report: Report) -> Figure:
    total = report.total
    high_wh = math.inf if report.lower_bounds else total.high_wh
    return Figure(total.energy_wh * J_PER_WH, total.low_wh * J_PER_WH, high_wh * J_PER_WH)


def _facts(report: Report) -> Iterator[str]:
    priced = f"recomputed for {report.recomputed_for}" if report.recomputed_for else ", ".join(report.grids)
    yield f"{share(report.measured_fraction, 1.0) or '0%'} measured by a sensor · grid {priced or 'unknown'}"
    if report.beside.embodied_g is not None:
        low_g, high_g = report.beside.embodied_low_g or math.nan, report.beside.embodied_high_g or math.nan
        made = co2e(report.beside.embodied_g, low_g, high_g)
        yield f"Embodied carbon, not in the emissions: {made}"
    for unit, cost in report.per_unit.items():
        joules = energy(cost.energy_wh * J_PER_WH * KILO)
        yield f"{joules} and {co2e(cost.emissions_g * KILO)} for each 1,000 {unit} of inference"
    if len(report.grids) > 1:
        yield "The emissions mix several grids; zone= computes all by one."
    if report.passed_training:
        yield f"Inference has used more than all training since {report.passed_training}."
    if report.lower_bounds:
        yield f"A lower bound, because {'; '.join(report.lower_bounds)}."
    if report.unmeasured:
        yield f"Not measured: {', '.join(report.unmeasured)}"
    if report.unreadable:
        yield f"Unreadable, not in the sums: {'; '.join(report.unreadable)}"


def _details(report: Report) -> Iterator[tuple[str, str]]:
    for attempt in report.attempts[-_MOST_ATTEMPTS:]:
        figures = f"{energy(attempt.energy_wh * J_PER_WH)}, {co2e(attempt.emissions_g)}"
        windows = f", {attempt.entries} windows" if attempt.entries > 1 else ""
        yield attempt.name, f"{figures}, {attempt.status.lower()}{windows}, {attempt.method}"
    if (left := len(report.attempts) - _MOST_ATTEMPTS) > 0:
        yield f"{left} earlier runs", "in rows() and to_frame()"
    for month, cost in report.by_month.items():
        yield month, f"{energy(cost.energy_wh * J_PER_WH)}, {co2e(cost.emissions_g)}"


def summary_of_run(cost: RunCost) -> str:
    """One line."""
    high_wh = math.inf if cost.lower_bound else cost.high_wh
    joules = energy(*(wh * J_PER_WH for wh in (cost.energy_wh, cost.low_wh, high_wh)))
    return (
        f"{cost.name!r}, {joules}, {co2e(cost.emissions_g)}, "
        f"{share(cost.measured_fraction, 1.0) or '0%'} measured, {duration(cost.duration_s)}"
    )


def summary_of_where(where: Where) -> str:
    """One line."""
    here = "not comparable here"
    if where.here is not None:
        here = f"{co2e(where.here.emissions_g)} in {where.here.name}"
    best = ""
    if where.regions:
        cleanest = where.regions[0]
        best = f", {emissions(cleanest.emissions_g)} in {cleanest.region}"
    joules = energy(*_energy_of_where(where))
    return f"{where.title!r}, {joules}, {here}{best}, {_count(len(where.regions), 'region')}"


def card_of_where(where: Where) -> Card:
    """The card of a comparison: here, and the cleanest regions."""
    rows = [Row(_place(each), emissions_g=each.emissions_g, note=_note(each)) for each in where.regions]
    here = where.here
    if here is not None:
        rows = [
            Row(f"here: {here.name}", emissions_g=here.emissions_g, quiet=True),
            *rows,
        ]
    high_g = math.inf if here is None or where.lower_bounds else here.high_g
    left = len(where.regions) - _MOST_REGIONS
    return Card(
        f"{where.title}: the same energy elsewhere",
        energy=_energy_of_where(where),
        emissions=None if here is None else Figure(here.emissions_g, here.low_g, high_g),
        texts=() if here is None else (f"in {here.name}",),
        of="region",
        rows=rows[: _MOST_REGIONS + (here is not None)],
        parts=False,
        facts=(
            *([] if here is not None else [f"Not comparable with here: {where.why_not_here}"]),
            *([f"{left} more regions emit more; to_frame() has them all."] if left > 0 else []),
            f"Yearly means of {where.year}, {where.signal}",
            *(f"A lower bound, because {line}." for line in where.lower_bounds),
        ),
        more=(("source", where.source), *(("not comparable", line) for line in where.not_comparable)),
    )


def _energy_of_where(where: Where) -> Figure:
    high_wh = math.inf if where.lower_bounds else where.high_wh
    return Figure(where.energy_wh * J_PER_WH, where.low_wh * J_PER_WH, high_wh * J_PER_WH)


def _place(each: Elsewhere) -> str:
    return f"{each.region}, {each.place}" if each.place else each.region


def _note(each: Elsewhere) -> str:
    if each.ratio is None:
        return ""
    return f"{each.ratio:.2g} × here, {each.difference}"


def _count(number: int, what: str) -> str:
    plural = f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
    return f"{number:,} {what if number == 1 else plural}"

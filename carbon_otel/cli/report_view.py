"""A report as text and tables on a rich console."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from rich import box
from rich.table import Column, Table

from carbon_otel.cli.output import Screen, natural_width
from carbon_otel.lifecycle.attempts import Attempt
from carbon_otel.lifecycle.entry import LedgerCost
from carbon_otel.lifecycle.report import TRAINING, DayTotal, Report
from carbon_otel.mlflow.schema import rank_figures
from carbon_otel.mlflow.schema.rank_figures import RankFigures
from carbon_otel.quantities import EMISSIONS, ENERGY, column, duration, emissions, volume, watt_hours
from carbon_otel.units import J_PER_WH, KILO

_BAR: Final = 12
_DAYS: Final = 8
_RANKS: Final = 16
_SOURCES: Final = {
    "method": "{}",
    "hardware": "on {}",
    "zone": "grid {}",
    "intensity_source": "{}",
    "intensity_year": "{}",
    "pue": "PUE {}",
    "lifetime_years": "{} years in use",
    "version": "carbon_otel {}",
}


def show(report: Report, console: Screen) -> None:
    """Print the report."""
    total = report.total
    high_wh, high_g = (math.inf, math.inf) if report.lower_bounds else (total.high_wh, total.high_g)
    for line in (
        f"{report.title}: {len(report.entries)} {'entry' if len(report.entries) == 1 else 'entries'}",
        f"energy     {watt_hours(total.energy_wh, total.low_wh, high_wh)}",
        f"emissions  {emissions(total.emissions_g, total.low_g, high_g, of='CO2e')}",
        f"measured   {report.measured_fraction:.0%} by a sensor",
    ):
        console.print(line)
    for line in _beside(report):
        console.print(line)
    if len(report.grids) > 1:
        each = "; ".join(f"{grid} ({count})" for grid, count in report.grids.items())
        console.print(f"grids      the emissions mix {each}; --zone computes all by one")
    if report.recomputed_for:
        console.print(f"grid       emissions recomputed for {report.recomputed_for}")
    _print(_sums("stage", report.by_stage, total.energy_wh, report.beside.embodied_by_stage), console)
    if len(report.by_month) > 1:
        _print(_sums("month", report.by_month, total.energy_wh), console)
    console.print(_attempts(report))
    for entry in report.entries:
        if entry.ranks:
            console.print(f"{entry.name}: {rank_figures.sentence(entry.ranks)}")
            console.print(_ranks(entry.ranks))
    if report.by_stage.get(TRAINING) and len(report.amortisation) > 1:
        console.print(_amortisation(report))
    for line in (*_sources(report), *_notes(report)):
        console.print(line)


def _print(table: Table, console: Screen) -> None:
    """Print a table, on a narrow screen without its last column, the bars."""
    if natural_width(table) > console.width:
        table.columns.pop()
    console.print(table)


def _beside(report: Report) -> Iterator[str]:
    """What is in no other figure: embodied carbon, market-based emissions, water."""
    beside, entries = report.beside, len(report.entries)
    if beside.embodied_g is None:
        yield "embodied   unknown"
    else:
        band = beside.embodied_low_g, beside.embodied_high_g
        missing = len(beside.embodied_unknown)
        lacks = f"; unknown for {missing} of {entries} entries" if missing else ""
        yield f"embodied   {emissions(beside.embodied_g, *band, of='CO2e')}, not in the emissions{lacks}"
    if beside.market_g is not None:
        missing = len(beside.market_unknown)
        lacks = f"; unknown for {missing} of {entries} entries" if missing else ""
        yield f"market     {emissions(beside.market_g)} CO2e, market-based, beside the emissions{lacks}"
    if beside.water_l is not None:
        yield f"water      {volume(*beside.water_l)}"


def _sums(
    title: str, sums: Mapping[str, LedgerCost], total_wh: float, embodied: Mapping[str, float] | None = None
) -> Table:
    beside = ("embodied",) if embodied else ()
    figures = map(_right, ("energy", "emissions", *beside, "share"))
    table = Table(title, *figures, Column(style="green"), box=box.SIMPLE_HEAD)
    columns = _columns(sums.values())
    if embodied:
        columns.append(column(EMISSIONS, [embodied.get(name, math.nan) for name in sums]))
    for (name, cost), *cells in zip(sums.items(), *columns, strict=True):
        share = cost.energy_wh / total_wh if total_wh > 0 else 0.0
        table.add_row(name, *cells, f"{share:.1%}", _bar(share))
    return table


def _columns(costs: Iterable[LedgerCost | Attempt | RankFigures]) -> list[list[str]]:
    """The columns of energy and emissions."""
    costs = list(costs)
    joules, grams = [J_PER_WH * cost.energy_wh for cost in costs], [cost.emissions_g for cost in costs]
    return [column(ENERGY, joules), column(EMISSIONS, grams)]


def _right(title: str) -> Column:
    return Column(title, justify="right", no_wrap=True)


def _attempts(report: Report) -> Table:
    status, method = Column("status", no_wrap=True), Column("method", overflow="fold")
    table = Table("run", status, _right("energy"), _right("emissions"), method, box=box.SIMPLE_HEAD)
    for attempt, *figures in zip(report.attempts, *_columns(report.attempts), strict=True):
        name = attempt.name if attempt.entries == 1 else f"{attempt.name}, {attempt.entries} windows"
        table.add_row(name, attempt.status, *figures, attempt.method)
    return table


def _ranks(ranks: Sequence[RankFigures]) -> Table:
    """The ranks, or the slowest ones of many."""
    figures = map(_right, ("energy", "emissions", "samples", "steps", "waits each step"))
    table = Table("rank", *figures, box=box.SIMPLE_HEAD)
    shown = ranks
    if len(ranks) > _RANKS:
        shown = sorted(ranks, key=lambda each: (each.step_wait_s or 0.0, -each.train_s))[:_RANKS]
    for each, *cells in zip(shown, *_columns(shown), strict=True):
        waits = "" if each.step_wait_s is None else duration(each.step_wait_s)
        table.add_row(str(each.rank), *cells, f"{each.samples:,.0f}", f"{each.steps:,.0f}", waits)
    if others := len(ranks) - len(shown):
        table.add_row(f"{others} others", *[""] * 5)
    return table


def _amortisation(report: Report) -> Table:
    """Energy of inference up to selected days, compared with that of all training."""
    training_wh = report.by_stage[TRAINING].energy_wh
    figures = map(_right, ("inference so far", "of training"))
    table = Table("day", *figures, Column(style="green"), box=box.SIMPLE_HEAD)
    most = max(report.amortisation[-1].inference_wh, training_wh) or 1.0
    days = _some(report.amortisation)
    texts = column(ENERGY, [J_PER_WH * total.inference_wh for total in days])
    for (day, inference_wh), so_far in zip(days, texts, strict=True):
        share = f"{inference_wh / training_wh:.0%}" if training_wh > 0 else ""
        table.add_row(day, so_far, share, _bar(inference_wh / most))
    return table


def _some(days: tuple[DayTotal, ...]) -> list[DayTotal]:
    """At most eight days, evenly spaced, with the first and the last."""
    places = {round(i * (len(days) - 1) / (_DAYS - 1)) for i in range(_DAYS)}
    return [days[place] for place in sorted(places)]


def _sources(report: Report) -> Iterator[str]:
    """The provenance of the figures, without repetitions."""
    for tags in dict.fromkeys(
        tuple((name, entry.tags[f"carbon.{name}"]) for name in _SOURCES if entry.tags.get(f"carbon.{name}"))
        for entry in report.entries
    ):
        yield f"source     {', '.join(_SOURCES[name].format(value) for name, value in tags)}"


def _notes(report: Report) -> Iterator[str]:
    for unit, cost in report.per_unit.items():
        yield (
            f"per 1,000 {unit} of inference: {watt_hours(cost.energy_wh * KILO)}, "
            f"{emissions(cost.emissions_g * KILO)} CO2e"
        )
    if len(report.signals) > 1:
        yield (
            f"the emissions are of unlike intensities ({'; '.join(report.signals)}): compare the energy, or "
            "recompute them with --zone"
        )
    for unit, grams in report.beside.sci.items():
        yield f"SCI per 1,000 {unit} of inference: {emissions(grams * KILO)} CO2e, with the embodied carbon"
    if report.passed_training:
        yield f"inference has used more than all training since {report.passed_training}"
    yield from (f"lower bound: {line}" for line in report.lower_bounds)
    yield from (f"from another experiment: {line}" for line in report.prepared_elsewhere)
    if report.unmeasured:
        yield f"not measured: {', '.join(report.unmeasured)}"
    yield from (f"unreadable, not in the sums: {line}" for line in report.unreadable)


def _bar(share: float) -> str:
    return "█" * round(_BAR * min(1.0, share))

"""A report as text and tables on a rich console."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from rich import box
from rich.table import Column, Table

from carbon_otel.cli.output import Screen
from carbon_otel.lifecycle.entry import LedgerCost
from carbon_otel.lifecycle.report import TRAINING, DayTotal, Report
from carbon_otel.mlflow.schema import rank_figures
from carbon_otel.mlflow.schema.rank_figures import RankFigures
from carbon_otel.units import KILO, MS_PER_S, emissions, energy

_BAR: Final = 20
_DAYS: Final = 8
_RANKS: Final = 16
_SOURCES: Final = (
    "method",
    "zone",
    "intensity_source",
    "intensity_year",
    "pue",
    "hardware",
    "lifetime_years",
    "version",
)


def show(report: Report, console: Screen) -> None:
    """Print the report."""
    total = report.total
    high_wh, high_g = energy(total.high_wh), emissions(total.high_g)
    if report.lower_bounds:
        high_wh = high_g = "more"
    for line in (
        f"{report.title}: {len(report.entries)} entries",
        f"energy     {energy(total.energy_wh)} ({energy(total.low_wh)} to {high_wh})",
        f"emissions  {emissions(total.emissions_g)} CO2e ({emissions(total.low_g)} to {high_g})",
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
    console.print(_sums("stage", report.by_stage, total.energy_wh, report.beside.embodied_by_stage))
    console.print(_sums("month", report.by_month, total.energy_wh))
    console.print(_attempts(report))
    for entry in report.entries:
        if entry.ranks:
            console.print(f"{entry.name}: {rank_figures.sentence(entry.ranks)}")
            console.print(_ranks(entry.ranks))
    if report.by_stage.get(TRAINING) and len(report.amortisation) > 1:
        console.print(_amortisation(report))
    console.print(_sources(report))
    for line in _notes(report):
        console.print(line)


def _beside(report: Report) -> Iterator[str]:
    """What is in no other figure: embodied carbon, market-based emissions, water."""
    beside, entries = report.beside, len(report.entries)
    if beside.embodied_g is None:
        yield "embodied   unknown"
    else:
        low, high = emissions(beside.embodied_low_g or 0.0), emissions(beside.embodied_high_g or 0.0)
        missing = len(beside.embodied_unknown)
        lacks = f"; unknown for {missing} of {entries} entries" if missing else ""
        yield f"embodied   {emissions(beside.embodied_g)} CO2e ({low} to {high}), not in the emissions{lacks}"
    if beside.market_g is not None:
        missing = len(beside.market_unknown)
        lacks = f"; unknown for {missing} of {entries} entries" if missing else ""
        yield f"market     {emissions(beside.market_g)} CO2e, market-based, beside the emissions{lacks}"
    if beside.water_l is not None:
        value, low_l, high_l = beside.water_l
        yield f"water      {value:.4g} L ({low_l:.4g} to {high_l:.4g})"


def _sums(
    title: str, sums: Mapping[str, LedgerCost], total_wh: float, embodied: Mapping[str, float] | None = None
) -> Table:
    beside = ("embodied",) if embodied else ()
    table = Table(title, "energy", "emissions", *beside, "share", Column(style="green"), box=box.SIMPLE_HEAD)
    for name, cost in sums.items():
        share = cost.energy_wh / total_wh if total_wh > 0 else 0.0
        figures = [energy(cost.energy_wh), emissions(cost.emissions_g)]
        if embodied:
            figures.append(emissions(embodied[name]) if name in embodied else "unknown")
        table.add_row(name, *figures, f"{share:.1%}", _bar(share))
    return table


def _attempts(report: Report) -> Table:
    table = Table("run", "status", "energy", "emissions", "method", box=box.SIMPLE_HEAD)
    for attempt in report.attempts:
        name = attempt.name if attempt.entries == 1 else f"{attempt.name}, {attempt.entries} windows"
        figures = energy(attempt.energy_wh), emissions(attempt.emissions_g)
        table.add_row(name, attempt.status, *figures, attempt.method)
    return table


def _ranks(ranks: Sequence[RankFigures]) -> Table:
    """The ranks, or the slowest ones of many."""
    table = Table("rank", "energy", "emissions", "samples", "steps", "waits each step", box=box.SIMPLE_HEAD)
    shown = ranks
    if len(ranks) > _RANKS:
        shown = sorted(ranks, key=lambda each: (each.step_wait_s or 0.0, -each.train_s))[:_RANKS]
    for each in shown:
        waits = "" if each.step_wait_s is None else f"{each.step_wait_s * MS_PER_S:.3g} ms"
        counts = f"{each.samples:g}", f"{each.steps:g}"
        table.add_row(str(each.rank), energy(each.energy_wh), emissions(each.emissions_g), *counts, waits)
    if others := len(ranks) - len(shown):
        table.add_row(f"{others} others", *[""] * 5)
    return table


def _amortisation(report: Report) -> Table:
    """Energy of inference up to selected days, compared with that of all training."""
    training_wh = report.by_stage[TRAINING].energy_wh
    table = Table("day", "inference so far", "of training", Column(style="green"), box=box.SIMPLE_HEAD)
    most = max(report.amortisation[-1].inference_wh, training_wh) or 1.0
    for day, inference_wh in _some(report.amortisation):
        share = f"{inference_wh / training_wh:.0%}" if training_wh > 0 else ""
        table.add_row(day, energy(inference_wh), share, _bar(inference_wh / most))
    return table


def _some(days: tuple[DayTotal, ...]) -> list[DayTotal]:
    """At most eight days, evenly spaced, with the first and the last."""
    places = {round(i * (len(days) - 1) / (_DAYS - 1)) for i in range(_DAYS)}
    return [days[place] for place in sorted(places)]


def _sources(report: Report) -> Table:
    """The provenance of the figures, without repetitions."""
    table = Table(*(name.replace("_", " ") for name in _SOURCES), box=box.SIMPLE_HEAD)
    rows = (tuple(entry.tags.get(f"carbon.{name}", "") for name in _SOURCES) for entry in report.entries)
    for row in dict.fromkeys(rows):
        table.add_row(*row)
    return table


def _notes(report: Report) -> Iterator[str]:
    for unit, cost in report.per_unit.items():
        yield (
            f"per 1,000 {unit} of inference: {energy(cost.energy_wh * KILO)}, "
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

"""A forecast as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich import box
from rich.table import Table

from carbon_otel.cli.output import Screen
from carbon_otel.compat import llmcarbon
from carbon_otel.forecast.quantity import text_of
from carbon_otel.forecast.records import Assumption, Forecast, Interval
from carbon_otel.quantities import EMISSIONS, ENERGY, VOLUME, Unit, digits, unit
from carbon_otel.units import J_PER_KWH, KILO

# Titles, units, fields of `Forecast`, and what turns them into joules and grams.
_EMISSIONS: Final = ("emissions, {} CO2e", EMISSIONS, "emissions_kg", KILO)
_OF_TRAINING: Final = (
    ("GPU-hours", None, "gpu_hours", 1.0),
    ("days", None, "days", 1.0),
    ("energy, {}", ENERGY, "energy_kwh", J_PER_KWH),
    _EMISSIONS,
)
_OF_SERVING: Final = (
    ("{} per output token", ENERGY, "j_per_output_token", 1.0),
    ("{} per input token", ENERGY, "j_per_input_token", 1.0),
    ("months to its training's energy", None, "months_to_training", 1.0),
    _EMISSIONS,
)


def show(
    forecast: Forecast, comparisons: Sequence[tuple[str, Sequence[tuple[str, Forecast]]]], console: Screen
) -> None:
    """Print the figures, what dominates their uncertainty, every assumption, and the comparisons."""
    console.print(_figures(forecast))
    for note in forecast.notes:
        console.print(note)
    if forecast.influences:
        shares = ", ".join(
            f"{each.name} {each.share:.0%}" for each in forecast.influences if each.share >= 0.01
        )
        console.print(f"The uncertainty comes from: {shares}.")
    if len(forecast.phases) > 1:
        console.print(_phases(forecast))
    console.print(_assumptions(forecast.assumptions))
    for field, rows in comparisons:
        console.print(_compared(field, rows))


def show_llmcarbon(predictions: Sequence[llmcarbon.Prediction], console: Screen) -> None:
    """Print what MLCarbon's tutorial prints: predicted, actual and delta of each row, and the embodied check."""
    table = Table(title="Operational carbon footprint, by MLCarbon's formulas", box=box.SIMPLE_HEAD)
    table.add_column("name")
    table.add_column("type")
    for column in ("days", "MWh", "t CO2e", "actual t", "delta"):
        table.add_column(column, justify="right")
    for row in predictions:
        table.add_row(
            row.name,
            row.type,
            f"{row.days:.4g}",
            f"{row.energy_mwh:.4g}",
            f"{row.predicted_t:.4g}",
            f"{row.actual_t:.4g}",
            f"{row.delta:+.2%}",
        )
    console.print(table)
    tonnes = llmcarbon.embodied_t()
    console.print(
        f"Embodied, XLM: {tonnes:.4g} t; published {llmcarbon.XLM_ACTUAL_T:g} t; "
        f"delta {tonnes / llmcarbon.XLM_ACTUAL_T - 1:+.2%}"
    )
    console.print(
        "Efficiency and watts of these rows were measured in the runs themselves. To forecast a new run, write "
        "carbon-otel forecast --params ... --tokens ... --gpu ..."
    )


def _figures(forecast: Forecast) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    for column in ("p10", "p50", "p90"):
        table.add_column(column, justify="right")
    for label, interval in (
        ("parameters", forecast.params),
        ("training tokens", forecast.tokens),
        ("accelerators", forecast.gpus),
        ("GPU-hours", forecast.gpu_hours),
        ("days", forecast.days),
    ):
        if interval is not None:
            table.add_row(label, *_texts(interval))
    served_in_part = forecast.kind == "inference" and forecast.scope != "service"
    energy = f"energy of the {forecast.scope}" if served_in_part else "energy with PUE"
    for label, units, interval in (
        (f"{energy}, {{}}", ENERGY, forecast.energy_kwh.times(J_PER_KWH)),
        ("emissions, {} CO2e", EMISSIONS, forecast.emissions_kg.times(KILO)),
        ("embodied, {} CO2e", EMISSIONS, forecast.embodied_kg and forecast.embodied_kg.times(KILO)),
        ("water, {}", VOLUME, forecast.water_l),
        ("{} per output token", ENERGY, forecast.j_per_output_token),
        ("{} per input token", ENERGY, forecast.j_per_input_token),
    ):
        if interval is not None:
            chosen = unit(units, interval.p50)
            table.add_row(label.format(chosen.name), *_numbers(interval, chosen))
    months = forecast.months_to_training
    if months is not None:
        label = "months until it has used the training's energy"
        table.add_row(label, *_texts(months))
    return table


def _percentiles(interval: Interval) -> tuple[float, float, float]:
    return interval.p10, interval.p50, interval.p90


def _numbers(interval: Interval, chosen: Unit) -> list[str]:
    """The percentiles in this unit, with as many digits as they deserve."""
    known = digits(interval.p50, interval.p10, interval.p90)
    return [chosen.number(value, known) for value in _percentiles(interval)]


def _phases(forecast: Forecast) -> Table:
    energies = [phase.energy_kwh.times(J_PER_KWH) for phase in forecast.phases]
    emissions = [phase.emissions_kg.times(KILO) for phase in forecast.phases]
    energy, mass = (
        unit(units, *(each.p50 for each in of_phases))
        for units, of_phases in ((ENERGY, energies), (EMISSIONS, emissions))
    )
    table = Table(title="Phases of the model's life", box=box.SIMPLE_HEAD)
    table.add_column("phase")
    for column in (f"{energy.name} p10", "p50", "p90", f"{mass.name} CO2e p50"):
        table.add_column(column, justify="right")
    table.add_column("basis", overflow="fold")
    for phase, joules, grams in zip(forecast.phases, energies, emissions, strict=True):
        table.add_row(phase.name, *_numbers(joules, energy), _numbers(grams, mass)[1], phase.basis)
    return table


def _assumptions(assumptions: Sequence[Assumption]) -> Table:
    table = Table(title="Assumptions", box=box.SIMPLE_HEAD)
    table.add_column("assumption", overflow="fold")
    table.add_column("value", justify="right")
    table.add_column("range", justify="right")
    table.add_column("unit")
    table.add_column("source", overflow="fold")
    for each in assumptions:
        between = "" if each.low == each.value == each.high else f"{text_of(each.low)} - {text_of(each.high)}"
        source = each.source if each.verified else f"{each.source} [unverified]"
        table.add_row(each.name, text_of(each.value), between, each.unit, source)
    return table


def _compared(field: str, rows: Sequence[tuple[str, Forecast]]) -> Table:
    table = Table(title=f"By {field}, least emissions first", box=box.SIMPLE_HEAD)
    table.add_column(field)
    first = rows[0][1]
    compared = _OF_TRAINING if first.j_per_output_token is None else _OF_SERVING
    columns = []
    for title, units, name, factor in compared:
        if getattr(first, name) is None:
            continue
        of_rows: list[Interval] = [getattr(forecast, name).times(factor) for _, forecast in rows]
        chosen = units and unit(units, *(each.p50 for each in of_rows))
        table.add_column(title.format(chosen and chosen.name), justify="right")
        columns.append([_numbers(each, chosen) if chosen else _texts(each) for each in of_rows])
    table.add_column("p10 - p90", justify="right")
    for (label, _), *cells in zip(rows, *columns, strict=True):
        low, _, high = cells[-1]
        table.add_row(label, *(middle for _, middle, _ in cells), f"{low} - {high}")
    return table


def _texts(interval: Interval) -> list[str]:
    return [text_of(value) for value in _percentiles(interval)]

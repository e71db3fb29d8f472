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
from carbon_otel.units import J_PER_KWH, J_PER_WH

_COMPARED: Final = (
    ("GPU-hours", "gpu_hours"),
    ("days", "days"),
    ("MWh", "energy_mwh"),
    ("t CO2e", "emissions_t"),
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
    for label, interval in _rows(forecast):
        if interval is not None:
            table.add_row(label, *map(_number, (interval.p10, interval.p50, interval.p90)))
    return table


def _rows(forecast: Forecast) -> list[tuple[str, Interval | None]]:
    rows = [
        ("parameters", forecast.params),
        ("training tokens", forecast.tokens),
        ("accelerators", forecast.gpus),
        ("GPU-hours", forecast.gpu_hours),
        ("days", forecast.days),
    ]
    kwh, kg = forecast.energy_kwh, forecast.emissions_kg
    served_in_part = forecast.kind == "inference" and forecast.scope != "service"
    energy = f"energy of the {forecast.scope}" if served_in_part else "energy with PUE"
    if kwh.p50 >= 1000:
        rows.append((f"{energy}, MWh", forecast.energy_mwh))
    elif kwh.p50 >= 1:
        rows.append((f"{energy}, kWh", kwh))
    else:
        rows.append((f"{energy}, Wh", kwh.times(J_PER_KWH / J_PER_WH)))
    for label, interval in (("emissions", kg), ("embodied", forecast.embodied_kg)):
        if interval is None:
            continue
        if kg.p50 >= 1000:
            rows.append((f"{label}, t CO2e", interval.times(1e-3)))
        elif kg.p50 >= 1:
            rows.append((f"{label}, kg CO2e", interval))
        else:
            rows.append((f"{label}, g CO2e", interval.times(1e3)))
    return [
        *rows,
        ("water, l", forecast.water_l),
        ("J per output token", forecast.j_per_output_token),
        ("J per input token", forecast.j_per_input_token),
        ("months until it has used the training's energy", forecast.months_to_training),
    ]


def _phases(forecast: Forecast) -> Table:
    # All in the unit of the first, which is the forecast itself.
    most = forecast.phases[0].energy_kwh.p50
    unit, factor, mass, per_kg = ("MWh", 1e-3, "t", 1e-3) if most >= 1000 else ("kWh", 1.0, "kg", 1.0)
    if most < 1:
        unit, factor, mass, per_kg = "Wh", 1e3, "g", 1e3
    table = Table(title="Phases of the model's life", box=box.SIMPLE_HEAD)
    table.add_column("phase")
    for column in (f"{unit} p10", "p50", "p90", f"{mass} CO2e p50"):
        table.add_column(column, justify="right")
    table.add_column("basis", overflow="fold")
    for phase in forecast.phases:
        energy = phase.energy_kwh.times(factor)
        figures = (energy.p10, energy.p50, energy.p90, phase.emissions_kg.p50 * per_kg)
        table.add_row(phase.name, *map(_number, figures), phase.basis)
    return table


def _assumptions(assumptions: Sequence[Assumption]) -> Table:
    table = Table(title="Assumptions", box=box.SIMPLE_HEAD)
    table.add_column("assumption", overflow="fold")
    table.add_column("value", justify="right")
    table.add_column("range", justify="right")
    table.add_column("unit")
    table.add_column("source", overflow="fold")
    for each in assumptions:
        between = "" if each.low == each.value == each.high else f"{_number(each.low)} - {_number(each.high)}"
        source = each.source if each.verified else f"{each.source} [unverified]"
        table.add_row(each.name, _number(each.value), between, each.unit, source)
    return table


def _compared(field: str, rows: Sequence[tuple[str, Forecast]]) -> Table:
    table = Table(title=f"By {field}, least emissions first", box=box.SIMPLE_HEAD)
    table.add_column(field)
    columns = [(title, name) for title, name in _COMPARED if getattr(rows[0][1], name) is not None]
    if rows[0][1].j_per_output_token is not None:
        columns = [("J per output token", "j_per_output_token"), ("J per input token", "j_per_input_token")]
        if rows[0][1].months_to_training is not None:
            columns.append(("months to its training's energy", "months_to_training"))
        columns.append(("kg CO2e", "emissions_kg"))
    for title, _ in columns:
        table.add_column(title, justify="right")
    table.add_column("p10 - p90", justify="right")
    for label, forecast in rows:
        cells = [_median(getattr(forecast, name)) for _, name in columns]
        last: Interval = getattr(forecast, columns[-1][1])
        table.add_row(label, *cells, f"{_number(last.p10)} - {_number(last.p90)}")
    return table


def _median(interval: Interval | None) -> str:
    return "" if interval is None else _number(interval.p50)


def _number(value: float) -> str:
    return text_of(value)

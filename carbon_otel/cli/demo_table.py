"""The runs of the demo side by side: their figures in MLflow, and the sources of these figures."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from rich import box
from rich.table import Table

from carbon_otel.cli.output import Screen
from carbon_otel.mlflow.schema import contributions, names
from carbon_otel.quantities import EMISSIONS, ENERGY, Unit, digits, duration, unit
from carbon_otel.units import J_PER_WH, KILO

if TYPE_CHECKING:
    from mlflow.entities import Run

_PARTS: Final = {
    "data_processing": "data_processing",
    "forecasting": "forecasting",
    "training": "training",
    "inference": "inference",
    "run": "the run between them",
}


def show(runs: Sequence[Run], name: str, tracking_uri: str, console: Screen) -> None:
    """Print the runs of the experiment `name` as a table, the provenance of the figures, and where to read on."""
    figures = [contributions.figures_and_tags(run.data.metrics, run.data.tags) for run in runs]
    tags = {name.removeprefix("carbon."): tag for name, tag in figures[0][1].items()}
    console.print(_table(runs, figures))
    console.print(f"Method: {tags['method']}, on {tags['hardware']}.")
    console.print(
        f"Grid: {tags['zone']}, {tags['intensity_g_per_kwh']} g/kWh, PUE {tags['pue']} "
        f"({tags['intensity_source']}, {tags['intensity_year']})."
    )
    if "lifetime_years" in tags:
        years = tags["lifetime_years"]
        console.print(f"Embodied: making the hardware, over {years} years; in no other row but SCI.")
    ids = quote(json.dumps([run.info.run_id for run in runs], separators=(",", ":")))
    experiment, last = runs[0].info.experiment_id, runs[-1].info.run_id
    compared = f"#/compare-runs?runs={ids}&experiments={quote(json.dumps([experiment]))}"
    charts = f"#/experiments/{experiment}/runs?compareRunsMode=CHART"
    power = f"#/experiments/{experiment}/runs/{last}/system-metrics"
    store = f"--tracking-uri {shlex.quote(tracking_uri)}"
    if not tracking_uri.startswith("http"):
        command = f"mlflow ui --backend-store-uri {shlex.quote(tracking_uri)}"
        console.line()
        console.print(f"See the runs:  {command}", soft_wrap=True)
        tracking_uri = "http://127.0.0.1:5000"
    for label, page in (
        ("Charts:        ", charts),
        ("Compare them:  ", compared),
        ("Power:         ", power),
    ):
        console.print(f"{label}{tracking_uri.rstrip('/')}/{page}", soft_wrap=True)
    for label, command in (
        ("Add them up:   ", f"report {shlex.quote(name)}"),
        ("What to do:    ", f"advise {shlex.quote(name)}"),
        ("Elsewhere:     ", f"where {shlex.quote(name)} --clouds gcp"),
        ("Another hour:  ", f"when {last} --provider uk"),
    ):
        console.print(f"{label}carbon-otel {command} {store}", soft_wrap=True)


def _table(runs: Sequence[Run], stored: Sequence[tuple[dict[str, float], dict[str, str]]]) -> Table:
    table = Table("", title="Energy and emissions", box=box.SIMPLE_HEAD)
    for run in runs:
        table.add_column(run.info.run_name, justify="right")
    params = [run.data.params for run in runs]
    metrics = [{**names.rates_per_1k(found), **found} for found, _ in stored]
    tags = [found for _, found in stored]
    table.add_row("samples", *(f"{int(p['samples']):,}" for p in params))
    table.add_row("trees", *(f"{int(p['trees']):,}" for p in params))
    table.add_row("depth", *(p["max_depth"].replace("None", "unlimited") for p in params))
    table.add_row("duration", *(duration(m["carbon/duration_s"]) for m in metrics))

    def figures(name: str, factor: float = 1.0) -> list[float]:
        return [m.get(f"carbon/{name}", math.nan) * factor for m in metrics]

    energy, low, high = (figures(f"energy_{name}wh", J_PER_WH) for name in ("", "low_", "high_"))
    known = list(map(digits, energy, low, high))
    _add(table, ENERGY, {"energy, {}": energy, "  at least": low, "  at most": high}, known)
    table.add_row("  measured by a sensor", *(f"{float(t['carbon.measured_fraction']):.0%}" for t in tags))
    expected = figures("forecast/energy_p50_wh", J_PER_WH)
    measured = figures("forecast/measured_wh", J_PER_WH)
    _add(table, ENERGY, {"training, forecast, {}": expected, "  measured": measured})
    table.add_row("  difference", *(f"{delta:+.1%}" for delta in figures("forecast/delta")))
    emissions = figures("emissions_g")
    per_1k = [KILO * grams / int(p["samples"]) for grams, p in zip(emissions, params, strict=True)]
    for label, grams in {
        "emissions, {} CO2e": emissions,
        "  per 1,000 samples, {}": per_1k,
        "embodied, {} CO2e": figures("embodied_g"),
        "SCI of 1,000 predictions, {}": figures("inference/sci_g_per_1k_samples"),
    }.items():
        _add(table, EMISSIONS, {label: grams})
    table.add_row("accuracy", *(f"{run.data.metrics['accuracy']:.3f}" for run in runs))
    for part, label in _PARTS.items():
        shares = (m[f"carbon/{part}/energy_wh"] / m["carbon/energy_wh"] for m in metrics)
        table.add_row(f"share of {label}", *(f"{share:.1%}" for share in shares))
    return table


def _add(
    table: Table, units: tuple[Unit, ...], rows: Mapping[str, Sequence[float]], known: Sequence[int] = ()
) -> None:
    """Add rows in one unit, which stands at `{}` in a label; `known` are the significant digits by column."""
    chosen = unit(units, *next(iter(rows.values())))
    for label, values in rows.items():
        places = known or [3] * len(values)
        table.add_row(label.format(chosen.name), *map(chosen.number, values, places))

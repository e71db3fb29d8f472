"""The runs of the demo side by side: their figures in MLflow, and the sources of these figures."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from rich import box
from rich.table import Table

from carbon_otel.cli.output import Screen
from carbon_otel.mlflow.schema import contributions, names
from carbon_otel.units import KILO

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
        ("Elsewhere:     ", f"where {shlex.quote(name)} --clouds gcp"),
        ("Another hour:  ", f"when {last} --provider uk"),
    ):
        console.print(f"{label}carbon-otel {command} {store}", soft_wrap=True)


def _table(runs: Sequence[Run], figures: Sequence[tuple[dict[str, float], dict[str, str]]]) -> Table:
    table = Table("", title="Energy and emissions", box=box.SIMPLE_HEAD)
    for run in runs:
        table.add_column(run.info.run_name, justify="right")
    params = [run.data.params for run in runs]
    metrics = [{**names.rates_per_1k(found), **found} for found, _ in figures]
    tags = [found for _, found in figures]
    table.add_row("samples", *(f"{int(p['samples']):,}" for p in params))
    table.add_row("trees", *(f"{int(p['trees']):,}" for p in params))
    table.add_row("depth", *(p["max_depth"].replace("None", "unlimited") for p in params))
    table.add_row("duration, s", *(f"{m['carbon/duration_s']:.1f}" for m in metrics))
    table.add_row("energy, Wh", *(f"{m['carbon/energy_wh']:.4g}" for m in metrics))
    table.add_row("  at least", *(f"{m['carbon/energy_low_wh']:.4g}" for m in metrics))
    table.add_row("  at most", *(f"{m['carbon/energy_high_wh']:.4g}" for m in metrics))
    table.add_row("  measured by a sensor", *(f"{float(t['carbon.measured_fraction']):.0%}" for t in tags))
    table.add_row("training, forecast, Wh", *(f"{m['carbon/forecast/energy_p50_wh']:.4g}" for m in metrics))
    table.add_row("  measured", *(f"{m['carbon/forecast/measured_wh']:.4g}" for m in metrics))
    table.add_row("  difference", *(f"{m['carbon/forecast/delta']:+.1%}" for m in metrics))
    table.add_row("emissions, g CO2e", *(f"{m['carbon/emissions_g']:.4g}" for m in metrics))
    per_sample = (m["carbon/emissions_g"] / int(p["samples"]) for m, p in zip(metrics, params, strict=True))
    table.add_row("  per 1,000 samples", *(f"{KILO * grams:.4g}" for grams in per_sample))
    table.add_row("embodied, g CO2e", *(_known(m.get("carbon/embodied_g")) for m in metrics))
    sci = "carbon/inference/sci_g_per_1k_samples"
    table.add_row("SCI of 1,000 predictions, g", *(_known(m.get(sci)) for m in metrics))
    table.add_row("accuracy", *(f"{run.data.metrics['accuracy']:.3f}" for run in runs))
    for part, label in _PARTS.items():
        shares = (m[f"carbon/{part}/energy_wh"] / m["carbon/energy_wh"] for m in metrics)
        table.add_row(f"share of {label}", *(f"{share:.1%}" for share in shares))
    return table


def _known(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"

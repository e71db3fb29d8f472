"""`carbon-otel report`: what a model has cost over its whole life."""

from __future__ import annotations

import csv
import io
import json
from enum import Enum
from typing import Annotated, Any, Final

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from carbon_otel.carbon.grid import country
from carbon_otel.cli.html_report import page
from carbon_otel.cli.json_output import without_nan
from carbon_otel.cli.mlflow_store import client_of, refuse, refuse_store
from carbon_otel.lifecycle.ledger import NotFound, read
from carbon_otel.lifecycle.model_tags import save as save_totals
from carbon_otel.lifecycle.report import Report, report_of
from carbon_otel.units import emissions, energy

# What dashboards made for CodeCarbon's emissions.csv read; columns that we do not know stay empty.
_CODECARBON: Final = (
    "timestamp",
    "project_name",
    "run_id",
    "experiment_id",
    "duration",
    "emissions",
    "emissions_rate",
    "cpu_power",
    "gpu_power",
    "ram_power",
    "cpu_energy",
    "gpu_energy",
    "ram_energy",
    "energy_consumed",
    "water_consumed",
    "country_name",
    "country_iso_code",
    "region",
    "cloud_provider",
    "cloud_region",
    "os",
    "python_version",
    "codecarbon_version",
    "cpu_count",
    "cpu_model",
    "gpu_count",
    "gpu_model",
    "longitude",
    "latitude",
    "ram_total_size",
    "tracking_mode",
    "cpu_utilization_percent",
    "gpu_utilization_percent",
    "ram_utilization_percent",
    "ram_used_gb",
    "on_cloud",
    "pue",
    "wue",
)


class Format(str, Enum):
    table = "table"
    json = "json"
    csv = "csv"
    codecarbon = "codecarbon"
    html = "html"


def report(
    model: Annotated[
        str,
        typer.Argument(
            help="A registered model (churn, churn/3, churn@champion), model id, run id, experiment or lineage."
        ),
    ],
    form: Annotated[
        Format, typer.Option("--format", help="codecarbon: CSV in the columns of its emissions.csv.")
    ] = Format.table,
    zone: Annotated[
        str | None, typer.Option(help="Compute the emissions anew for this country's grid.")
    ] = None,
    year: Annotated[
        int | None, typer.Option(help="Compute the emissions anew with the grids of this year.")
    ] = None,
    save: Annotated[
        bool, typer.Option("--save", help="Tag the model with these totals and today's date.")
    ] = False,
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow store, instead of MLflow's default.")
    ] = None,
) -> None:
    """Add up what a model has cost: preparation, every attempt, evaluation, inference."""
    client, uri = client_of(tracking_uri)
    try:
        found = report_of(read(client, model), zone, year)
        if save:
            typer.echo(f"totals saved on {save_totals(client, model, found)}", err=True)
    except (NotFound, ValueError) as error:
        refuse(str(error))
    except Exception as error:  # noqa: BLE001 - every kind of store raises its own
        refuse_store(uri, error)
    if form is Format.json:
        typer.echo(json.dumps(without_nan(found.as_dict()), indent=2))
    elif form is Format.csv:
        typer.echo(_csv(found.rows()), nl=False)
    elif form is Format.codecarbon:
        typer.echo(_csv(_codecarbon(found), _CODECARBON), nl=False)
    elif form is Format.html:
        typer.echo(page(found))
    else:
        _show(found)


def _show(found: Report) -> None:
    console = Console(highlight=False)
    total = found.total
    high_wh, high_g = energy(total.high_wh), emissions(total.high_g)
    if found.lower_bounds:
        high_wh = high_g = "more"
    console.print(f"[bold]{escape(found.title)}[/bold]: {len(found.entries)} entries")
    console.print(f"energy     {energy(total.energy_wh)} ({energy(total.low_wh)} to {high_wh})")
    console.print(f"emissions  {emissions(total.emissions_g)} CO2e ({emissions(total.low_g)} to {high_g})")
    console.print(f"measured   {found.measured_fraction:.0%} by a sensor")
    if found.repriced:
        console.print(f"priced     anew: {found.repriced}", markup=False)
    for title, sums in (("stage", found.by_stage), ("month", found.by_month)):
        console.print(_sums(title, sums, total.energy_wh))
    attempts = Table("run", "status", "energy", "emissions", "method", box=box.SIMPLE_HEAD)
    for attempt in found.attempts:
        name = attempt.name if attempt.entries == 1 else f"{attempt.name}, {attempt.entries} windows"
        figures = energy(attempt.energy_wh), emissions(attempt.emissions_g)
        attempts.add_row(escape(name), attempt.status, *figures, attempt.method)
    console.print(attempts)
    for unit, (wh, grams) in found.per_unit.items():
        console.print(f"per 1,000 {unit} of inference: {energy(wh * 1000)}, {emissions(grams * 1000)} CO2e")
    if found.passed_training:
        console.print(f"inference has used more than all training since {found.passed_training}")
    for line in found.lower_bounds:
        console.print(f"lower bound: {line}", markup=False)
    for line in found.prepared_elsewhere:
        console.print(f"from another experiment: {line}", markup=False)
    if found.unmeasured:
        console.print(f"not measured: {', '.join(found.unmeasured)}", markup=False)
    for line in found.unreadable:
        console.print(f"unreadable, not in the sums: {line}", markup=False)


def _sums(title: str, sums: Any, total_wh: float) -> Table:
    table = Table(title, "energy", "emissions", "share", box=box.SIMPLE_HEAD)
    for name, (wh, grams) in sums.items():
        share = f"{wh / total_wh:.1%}" if total_wh > 0 else ""
        table.add_row(escape(name), energy(wh), emissions(grams), share)
    return table


def _csv(rows: list[dict[str, Any]], columns: tuple[str, ...] = ()) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns or list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _codecarbon(found: Report) -> list[dict[str, Any]]:
    """One row per run, in kWh, kg and W."""
    rows = []
    for start, entry in zip(_starts(found), found.entries, strict=True):
        kilograms, hours = entry.emissions_g / 1000, entry.duration_s / 3600
        row = {
            "timestamp": start,
            "project_name": found.title,
            "run_id": entry.run_id,
            "experiment_id": entry.experiment_id,
            "duration": entry.duration_s,
            "emissions": kilograms,
            "emissions_rate": kilograms / entry.duration_s if hours > 0 else 0.0,
            "energy_consumed": entry.energy_wh / 1000,
            "cpu_model": entry.tags.get("carbon.hardware", ""),
            "tracking_mode": "process" if entry.tags.get("carbon.attribution") == "process" else "machine",
            "on_cloud": "N",  # its dashboard looks for a provider where it says Y
            "pue": entry.tags.get("carbon.pue", ""),
        }
        for theirs, ours in (("cpu", "cpu"), ("gpu", "gpu"), ("ram", "memory")):
            wh = entry.components.get(ours, 0.0)
            row[f"{theirs}_energy"] = wh / 1000
            row[f"{theirs}_power"] = wh / hours if hours > 0 else 0.0
        zone = entry.tags.get("carbon.zone")
        if zone:
            row["country_name"], row["country_iso_code"] = country(zone)
        rows.append(row)
    return rows


def _starts(found: Report) -> list[str]:
    by_run = {row["run_id"]: row["start"] for row in found.rows()}
    return [by_run[entry.run_id].removesuffix("Z") for entry in found.entries]

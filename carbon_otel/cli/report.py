"""`carbon-otel report`: the cost of a model over its whole life."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from enum import Enum
from typing import Annotated

import typer

from carbon_otel.cli import completion
from carbon_otel.cli.filing import Filing, print_filing
from carbon_otel.cli.formats import codecarbon
from carbon_otel.cli.made import made
from carbon_otel.cli.mlflow_store import client_of, refuse_store
from carbon_otel.cli.output import Screen, refuse, say, write_csv, write_json, write_page
from carbon_otel.cli.report_view import show
from carbon_otel.lifecycle.ledger import Ledger, NotFound, read
from carbon_otel.lifecycle.model_tags import save as save_totals
from carbon_otel.lifecycle.report import ROW, Report, report_of
from carbon_otel.lifecycle.where import Where, where_of
from carbon_otel.pages.report import page


class Format(str, Enum):
    """The formats of the report."""

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
    output: Annotated[
        Format,
        typer.Option(
            "--format", help="html: a page in one file; codecarbon: CSV in the columns of its emissions.csv."
        ),
    ] = Format.table,
    zone: Annotated[
        str | None,
        typer.Option(
            help="Recompute the emissions for this country's grid.", autocompletion=completion.zones
        ),
    ] = None,
    year: Annotated[
        int | None, typer.Option(help="Recompute the emissions with the grids of this year.")
    ] = None,
    water: Annotated[
        bool,
        typer.Option("--water", help="Add the litres of water that the electricity and the sites consume."),
    ] = False,
    metric: Annotated[
        str | None, typer.Option(help="Metric that comes first in the page's table of attempts, as accuracy.")
    ] = None,
    save: Annotated[
        bool, typer.Option("--save", help="Tag the model with these totals and today's date.")
    ] = False,
    filing: Annotated[
        Filing | None,
        typer.Option(help="The text for the EU AI Act, or the SCI for AI; with --format json its figures."),
    ] = None,
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow store, instead of MLflow's default.")
    ] = None,
) -> None:
    """Add up the cost of a model: preparation, every attempt, evaluation, inference."""
    client, uri = client_of(tracking_uri)
    try:
        with _without_collections():
            ledger = read(client, model)
            result = report_of(ledger, zone, year, water=water)
        if save:
            say(f"totals saved as tags of {save_totals(client, model, result)}", err=True)
    except (NotFound, ValueError) as error:
        refuse(str(error))
    except Exception as error:  # noqa: BLE001 - every kind of store raises its own
        refuse_store(uri, error)
    try:
        if filing is not None:
            print_filing(result, filing, as_json=output is Format.json)
        elif output is Format.html:
            _write_page(result, ledger, metric)
        else:
            _print(result, output)
    except ValueError as error:
        refuse(str(error))


def _print(result: Report, output: Format) -> None:
    if output is Format.json:
        write_json(result.as_dict())
    elif output is Format.csv:
        write_csv(result.rows(), ROW)
    elif output is Format.codecarbon:
        write_csv(codecarbon.rows(result), codecarbon.COLUMNS)
    else:
        show(result, Screen())


def _write_page(result: Report, ledger: Ledger, metric: str | None) -> None:
    where: Where | None = where_of(ledger) if result.total.energy_wh > 0 else None
    write_page(page(result, made(), where, metric))


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """Read a ledger without the garbage collector, in the process of the command only.

    A page of runs has a hundred thousand objects, all in use. Collections among them take as long as reading them
    (MLflow 3.17 on sqlite: 9.9 s instead of 4.3 s for 10,000 runs).
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()

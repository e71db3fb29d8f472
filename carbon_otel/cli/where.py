"""`carbon-otel where`: the measured energy of a run or a model in every cloud region."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Final

import typer

from carbon_otel.cli import completion
from carbon_otel.cli.made import made
from carbon_otel.cli.mlflow_store import client_of, refuse_store
from carbon_otel.cli.output import Screen, refuse, write_csv, write_json, write_page
from carbon_otel.cli.where_view import show
from carbon_otel.lifecycle.ledger import NotFound, read
from carbon_otel.lifecycle.where import COLUMNS, where_of
from carbon_otel.pages.where import page

_MOST_ROWS: Final = 20


class Format(str, Enum):
    """The formats of the comparison."""

    table = "table"
    json = "json"
    csv = "csv"
    html = "html"


def where(
    model: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="As in `carbon-otel report`.")],
    clouds: Annotated[
        str | None,
        typer.Option(
            help="Providers, such as gcp,aws,azure; all by default.", autocompletion=completion.clouds
        ),
    ] = None,
    here: Annotated[
        str | None,
        typer.Option(
            help="Cloud region in which it ran, such as aws:eu-west-3; by default as recorded.",
            autocompletion=completion.cloud_regions,
        ),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help=f"Print all regions, not the {_MOST_ROWS} cleanest ones.")
    ] = False,
    output: Annotated[Format, typer.Option("--format", help="html: a page with bars.")] = Format.table,
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow store, instead of MLflow's default.")
    ] = None,
) -> None:
    """Compare cloud regions: what the same measured energy would emit in each."""
    client, uri = client_of(tracking_uri)
    chosen = [name.strip() for name in (clouds or "").split(",") if name.strip()]
    try:
        result = where_of(read(client, model), chosen, here)
    except (NotFound, ValueError) as error:
        refuse(str(error))
    except Exception as error:  # noqa: BLE001 - every kind of store raises its own
        refuse_store(uri, error)
    if output is Format.json:
        write_json(result.as_dict())
    elif output is Format.csv:
        write_csv(result.rows(), COLUMNS)
    elif output is Format.html:
        write_page(page(result, made()))
    else:
        show(result, Screen(), None if every else _MOST_ROWS)

"""`carbon-otel mlflow reconcile`: end the runs that a kill has left open."""

from __future__ import annotations

from typing import Annotated

import typer

from carbon_otel.cli.stores import client_of, refuse_store
from carbon_otel.mlflow.reconcile import reconcile as end_orphans

app = typer.Typer(help="The runs in MLflow.", no_args_is_help=True)


@app.callback()
def mlflow() -> None:
    """The runs in MLflow."""


@app.command()
def reconcile(
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow store, instead of MLflow's default.")
    ] = None,
) -> None:
    """Mark runs as KILLED whose process on this host is gone; their last checkpoint is a lower bound."""
    client, uri = client_of(tracking_uri)
    try:
        ended = end_orphans(client)
    except Exception as error:  # noqa: BLE001 - every kind of store raises its own
        refuse_store(uri, error)
    for run_id in ended:
        typer.echo(f"{run_id} marked as KILLED")
    typer.echo(f"{len(ended)} runs had been left open by processes of this host")

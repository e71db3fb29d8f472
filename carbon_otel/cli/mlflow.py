"""`carbon-otel mlflow reconcile` ends runs that a kill left open; `sync` sends waiting batches."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer

from carbon_otel.cli.mlflow_store import client_of, refuse_store
from carbon_otel.cli.refusal import refuse
from carbon_otel.config import resolve
from carbon_otel.mlflow import compat
from carbon_otel.mlflow.delivery import store_uri
from carbon_otel.mlflow.delivery.spool import Spool
from carbon_otel.mlflow.delivery.uploader import Uploader
from carbon_otel.mlflow.runs import orphans

app = typer.Typer(help="The runs in MLflow.", no_args_is_help=True)

_Uri = Annotated[str | None, typer.Option(help="MLflow store, instead of MLflow's default.")]


@app.callback()
def mlflow() -> None:
    """The runs in MLflow."""


@app.command()
def reconcile(tracking_uri: _Uri = None) -> None:
    """Mark the runs of dead processes of this host as KILLED; their last checkpoint is a lower bound."""
    client, uri = client_of(tracking_uri)
    try:
        orphaned = orphans.find(client)
        for orphan in orphaned.runs:
            orphans.end(client, orphan)
            typer.echo(f"{orphan.run_id} marked as KILLED")
    except Exception as error:  # noqa: BLE001 - every kind of store raises its own
        refuse_store(uri, error)
    for line in orphaned.unreadable:
        typer.echo(f"unreadable, not changed: {line}", err=True)
    typer.echo(f"{len(orphaned.runs)} runs were left open by processes of this host")


@app.command()
def sync(
    tracking_uri: _Uri = None,
    waiting_for: Annotated[
        str | None,
        typer.Option(
            help="Former address of the store, if it has moved: send the batches for this address too."
        ),
    ] = None,
) -> None:
    """Send the batches that ended processes of this host could not send; a repetition changes nothing."""
    try:
        folder = resolve({}).state_dir / "mlflow"
    except ValueError as error:
        refuse(str(error))
    client, uri = client_of(tracking_uri)
    store = compat.store_of(client)
    addresses = {store_uri.normalised(uri), store_uri.of_store(store)}
    addresses |= {store_uri.normalised(waiting_for)} if waiting_for else set()
    sent, remaining = 0, Counter[str]()
    for spool in Spool.left_in(folder):
        try:
            for address in addresses & spool.addresses().keys():
                sent += Uploader(store).send(spool, address)
            remaining.update(spool.addresses())
        except Exception as error:  # noqa: BLE001 - every kind of store raises its own
            refuse_store(uri, error)
        finally:
            spool.close()
    typer.echo(f"{sent} checkpoints sent to {store_uri.normalised(uri)}")
    for address, count in sorted(remaining.items()):
        if address in addresses:
            typer.echo(f"{count} are refused by the store; they are kept for 30 days")
        else:
            typer.echo(
                f"{count} wait for {address}: use it as --tracking-uri, or as --waiting-for if the store has moved"
            )

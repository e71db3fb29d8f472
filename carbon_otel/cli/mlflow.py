"""`carbon-otel mlflow reconcile` ends runs that a kill left open; `sync` sends waiting batches."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer

from carbon_otel.cli.mlflow_store import client_of, first_line, refuse_store
from carbon_otel.cli.output import refuse, say
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
    except Exception as error:  # noqa: BLE001 - every kind of store raises its own
        refuse_store(uri, error)
    failed = False
    for orphan in orphaned.runs:
        try:
            orphans.end(client, orphan)
        except Exception as error:  # noqa: BLE001 - as above; the other runs do not wait for this one
            failed = True
            say(f"{orphan.run_id} cannot be marked as KILLED: {first_line(error)}", err=True)
        else:
            say(f"{orphan.run_id} marked as KILLED")
    for line in orphaned.unreadable:
        say(f"unreadable, not changed: {line}", err=True)
    say(f"{len(orphaned.runs)} runs were left open by processes of this host")
    if failed:
        raise typer.Exit(1)


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
    try:
        addresses = {store_uri.normalised(uri), store_uri.of_store(store)}
    except Exception as error:  # noqa: BLE001 - every kind of store raises its own; this one has no credentials
        refuse_store(uri, error)
    addresses |= {store_uri.normalised(waiting_for)} if waiting_for else set()
    sent, remaining, fault = 0, Counter[str](), None
    for spool in Spool.left_in(folder):
        try:
            for address in addresses & spool.addresses().keys():
                sent += Uploader(store, of_ended=True).send(spool, address)
        except Exception as error:  # noqa: BLE001 - every kind of store raises its own
            if _is_unreachable(error):
                refuse_store(uri, error)
            fault = error  # of one run: the other files do not wait for it
        finally:
            remaining.update(spool.addresses())
            spool.close()
    say(f"{sent} checkpoints sent to {store_uri.normalised(uri)}")
    for address, count in sorted(remaining.items()):
        if address in addresses and fault is not None:
            say(f"{count} are not accepted now; they are kept: {first_line(fault)}", err=True)
        elif address in addresses:
            say(f"{count} are refused, because the store does not know their runs; they are kept for 30 days")
        else:
            say(
                f"{count} wait for {address}: use it as --tracking-uri, or as --waiting-for if the store has moved"
            )
    if fault is not None:
        raise typer.Exit(1)


def _is_unreachable(error: Exception) -> bool:
    """Whether no other batch would be accepted either; a server that answers may accept them."""
    from mlflow.exceptions import MlflowException, RestException

    return isinstance(error, (MlflowException, OSError)) and not isinstance(error, RestException)

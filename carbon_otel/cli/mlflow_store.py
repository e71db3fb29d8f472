"""The MLflow store that a command reads, or a clear word why there is none."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import typer

from carbon_otel.mlflow.delivery.store_uri import printable

if TYPE_CHECKING:
    from mlflow import MlflowClient

_SQLITE: Final = "sqlite:///"


def client_of(tracking_uri: str | None) -> tuple[MlflowClient, str]:
    """A client of the store, and its address. Exits with 2 where there is none."""
    if importlib.util.find_spec("mlflow") is None:
        refuse('mlflow is not installed: pip install "carbon-otel[mlflow]"')
    # Somebody waits: MLflow's own patience with a server that is gone is minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    import mlflow

    uri = tracking_uri or mlflow.get_tracking_uri()
    if uri.startswith(_SQLITE) and not Path(uri.removeprefix(_SQLITE).partition("?")[0]).is_file():
        # MLflow would make an empty store of that name, and try a folder for a minute.
        refuse(f"there is no MLflow store at {uri}; name it with --tracking-uri or MLFLOW_TRACKING_URI")
    try:
        return mlflow.MlflowClient(uri), uri
    except Exception as error:  # noqa: BLE001 - every kind of store raises its own
        refuse_store(uri, error)


def refuse_store(uri: str, error: Exception) -> NoReturn:
    reason = str(error).partition("\n")[0]
    refuse(
        printable(f"{uri}: {reason}") + "\nanother store is named with --tracking-uri or MLFLOW_TRACKING_URI"
    )


def refuse(message: str) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(2)

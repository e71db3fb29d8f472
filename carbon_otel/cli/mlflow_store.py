"""The MLflow store that a command reads, or the reason why it cannot be read."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn
from urllib.parse import urlsplit

from carbon_otel.cli.output import Screen, refuse

if TYPE_CHECKING:
    from mlflow import MlflowClient

_SQLITE: Final = "sqlite:///"
_UNKNOWN: Final = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
_ERRNO: Final = re.compile(r"\[Errno -?\d+\] ([^\"')]+)")


def client_of(tracking_uri: str | None) -> tuple[MlflowClient, str]:
    """A client of the store, and the address of the store. Exits with 2 if there is no store."""
    if importlib.util.find_spec("mlflow") is None:
        refuse('mlflow is not installed: pip install "carbon-otel[mlflow]"')
    # By default MLflow tries for minutes to reach a dead server, while the user waits.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    import mlflow

    uri = tracking_uri or mlflow.get_tracking_uri()
    if uri.startswith(_SQLITE) and not Path(uri.removeprefix(_SQLITE).partition("?")[0]).is_file():
        # MLflow would create an empty store, or try for a minute to open a folder.
        refuse(f"there is no MLflow store at {uri}; set --tracking-uri or MLFLOW_TRACKING_URI")
    try:
        return mlflow.MlflowClient(uri), uri
    except Exception as error:  # noqa: BLE001 - every kind of store raises its own
        refuse_store(uri, error)


def require_writable(uri: str, another: str) -> None:
    """Exit with 1 and the command `another`, if runs cannot be written to this store.

    MLflow would try for one to two minutes, without a word.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    way_on = f"or write to another store: {another}"
    scheme = urlsplit(uri).scheme
    if scheme in ("", "file", "sqlite"):
        path = uri.removeprefix(_SQLITE).partition("?")[0] if scheme == "sqlite" else urlsplit(uri).path
        place = next(
            each for each in (Path(path).absolute(), *Path(path).absolute().parents) if each.exists()
        )
        if not os.access(place, os.W_OK):
            refuse(f"the MLflow store {uri} cannot be written: {place} is read-only for you", way_on, code=1)
    elif scheme in ("http", "https"):
        import mlflow

        with Screen(stderr=True).status(f"Asking the MLflow server at {uri}"):
            try:
                mlflow.MlflowClient(uri).search_experiments(max_results=1)
            except Exception as error:  # noqa: BLE001 - every kind of server raises its own
                refuse(f"the MLflow server at {uri} {_reason(error)}", way_on, code=1)


def refuse_store(uri: str, error: Exception) -> NoReturn:
    """Print the error of the store and how to choose another store.

    Exits with 2 if the store lacks what was asked for, else with 1.
    """
    another = "set --tracking-uri or MLFLOW_TRACKING_URI for another store"
    if getattr(error, "error_code", None) in _UNKNOWN:
        refuse(f"in the MLflow store {uri}: {first_line(error)}", another)
    refuse(f"the MLflow store {uri} {_reason(error)}", another, code=1)


def _reason(error: Exception) -> str:
    """What is wrong with the store, without the address and the classes that libraries put around it."""
    line = first_line(error)
    if "Max retries exceeded" not in line:
        return f"cannot be used: {line}"
    if "timed out" in line:
        return "does not answer in time"
    found = _ERRNO.search(line)
    return f"does not answer: {found[1] if found else line}"


def first_line(error: Exception) -> str:
    """The first line of an error, since databases add their statements."""
    return str(error).strip().partition("\n")[0] or type(error).__name__

"""The address of a tracking store: the same in every process that writes to the store, and without a password.

The address of a server has no user either, since another process may have the user in its environment. A process
that sends the batches of another one uses its own credentials.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from carbon_otel.mlflow import compat
from carbon_otel.text import printable as printable
from carbon_otel.text import without_credentials

_SQLITE: Final = "sqlite:///"
_USER_OF_A_SERVER: Final = re.compile(r"^(https?://)[^/?#]*@")


def of_store(store: Any) -> str:
    """The address of an MLflow tracking store: its database, its server or its folder."""
    location = compat.location_of(store)
    return type(store).__name__ if location is None else normalised(location)


def normalised(uri: str) -> str:
    """A tracking URI as an address."""
    if uri.startswith(_SQLITE):
        path, _, options = uri.removeprefix(_SQLITE).partition("?")
        return without_credentials(_SQLITE + str(Path(path).absolute()) + (f"?{options}" if options else ""))
    if "://" not in uri:
        # A profile, such as `databricks`, or a folder.
        return str(Path(uri).absolute()) if "/" in uri else uri
    return _USER_OF_A_SERVER.sub(r"\1", without_credentials(uri)).rstrip("/")

"""Where a tracking store is, said the same way by every process that writes to it, and without a password."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

_SQLITE: Final = "sqlite:///"


def of_store(store: Any) -> str:
    """The address of an MLflow tracking store: its database, its server or its folder."""
    credentials = getattr(store, "get_host_creds", None)
    if credentials is not None:
        return normalised(str(credentials().host))
    for name in ("db_uri", "root_directory"):
        if hasattr(store, name):
            return normalised(str(getattr(store, name)))
    return type(store).__name__


def normalised(uri: str) -> str:
    """A tracking URI as an address."""
    if uri.startswith(_SQLITE):
        path, _, options = uri.removeprefix(_SQLITE).partition("?")
        return _SQLITE + str(Path(path).absolute()) + (f"?{options}" if options else "")
    if "://" not in uri:
        # A profile, such as `databricks`, or a folder.
        return str(Path(uri).absolute()) if "/" in uri else uri
    parts = urlsplit(uri)
    who, at, where = parts.netloc.rpartition("@")
    user = who.partition(":")[0]
    return urlunsplit(parts._replace(netloc=f"{user}{at}{where}")).rstrip("/")

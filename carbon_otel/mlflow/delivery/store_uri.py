"""The address of a tracking store: the same in every process that writes to the store, and without a password.

The address of a server has no user either, since another process may have the user in its environment. A process
that sends the batches of another one uses its own credentials.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from carbon_otel.mlflow import compat

_SQLITE: Final = "sqlite:///"
# Drivers accept passwords as parameters: `password` in libpq, `passwd` in pymysql, `PWD` in an ODBC string.
_SECRET: Final = re.compile(
    r"((?:[?&;]|%3B)[^=&;%\s]*(?:pass|pwd|secret|token|key)[^=&;%\s]*(?:=|%3D))(?:(?!%3B)[^&;\s])*",
    re.IGNORECASE,
)
_USERINFO: Final = re.compile(r"(?<=://)([^/?#\s@:]*):[^/?#\s]*@")
_USER_OF_A_SERVER: Final = re.compile(r"^(https?://)[^/?#]*@")


def of_store(store: Any) -> str:
    """The address of an MLflow tracking store: its database, its server or its folder."""
    location = compat.location_of(store)
    return type(store).__name__ if location is None else normalised(location)


def normalised(uri: str) -> str:
    """A tracking URI as an address."""
    if uri.startswith(_SQLITE):
        path, _, options = uri.removeprefix(_SQLITE).partition("?")
        return printable(_SQLITE + str(Path(path).absolute()) + (f"?{options}" if options else ""))
    if "://" not in uri:
        # A profile, such as `databricks`, or a folder.
        return str(Path(uri).absolute()) if "/" in uri else uri
    return _USER_OF_A_SERVER.sub(r"\1", printable(uri)).rstrip("/")


def printable(text: str) -> str:
    """An address, or a message that contains addresses, without passwords and tokens."""
    return _SECRET.sub(r"\1***", _USERINFO.sub(r"\1@", text))

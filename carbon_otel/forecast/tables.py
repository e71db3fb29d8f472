"""The tables in the package: read once, as text."""

from __future__ import annotations

import csv
import functools
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, Final

_FOLDER: Final = files("carbon_otel.forecast") / "data"


@functools.cache
def rows(name: str) -> Sequence[Mapping[str, str]]:
    """The rows of `data/<name>.csv`."""
    return tuple(csv.DictReader((_FOLDER / f"{name}.csv").read_text("utf-8").splitlines()))


@functools.cache
def fitted() -> Mapping[str, Any]:
    """The constants that `python -m carbon_otel.forecast.fit` has computed from the tables."""
    content: Mapping[str, Any] = json.loads((_FOLDER / "fitted.json").read_text("utf-8"))
    return content

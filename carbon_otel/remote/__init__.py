"""Estimates of the energy that calls of remote language models take elsewhere; nothing of it is measured.

An estimator turns a `RemoteRequest` into `RemoteFigures`, or None if it has no figures for that. `benchmark` is
the one of this package; `ecologits` asks the package of that name. Estimates never enter a measured figure.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

from carbon_otel.records import RemoteFigures, RemoteRequest

Estimate = Callable[[RemoteRequest], RemoteFigures | None]


def estimator(name: str) -> Estimate:
    """The estimator of this name. Raises ImportError if its package is not installed."""
    estimate: Estimate = importlib.import_module(f"carbon_otel.remote.{name}").estimate
    return estimate

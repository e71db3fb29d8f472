"""The patches of libraries, which a measurement and a process that waits for its first stage install."""

from __future__ import annotations

import importlib
from functools import partial
from types import ModuleType
from typing import Final

from carbon_otel import instrumentation
from carbon_otel.config import Settings
from carbon_otel.instrumentation.base import Undo
from carbon_otel.instrumentation.import_hook import ImportHook
from carbon_otel.instrumentation.progress_bars import BARS

# The package `carbon_otel.mlflow` is imported when the program imports one of these modules.
_MLFLOW: Final = {
    "mlflow.tracking._tracking_service.client": "TRACKING",
    "mlflow.tracking.fluent": "FLUENT",
    "mlflow.pyfunc": "PYFUNC",
}


def install(hook: ImportHook, settings: Settings) -> None:
    """Patch the libraries that are imported, and those that the program imports later."""
    instrumentation.install(hook)
    if settings.progress_bars:
        install_bars(hook)
    for name, integration in _MLFLOW.items():
        hook.when_imported(name, partial(_connect_mlflow, hook, integration))


def install_bars(hook: ImportHook) -> None:
    """Show costs in progress bars."""
    for bars in BARS:
        hook.add(bars)


def _connect_mlflow(hook: ImportHook, name: str, module: ModuleType) -> Undo:
    integrations = importlib.import_module("carbon_otel.mlflow.integration")
    return hook.connect(getattr(integrations, name), module)

"""Libraries whose calls become stages by themselves: one file each.

A framework's module has `MODULE`, the module to wait for, and `patch(module)`, which instruments it through the
stage API and returns what undoes that.
"""

from __future__ import annotations

import importlib
from typing import Final

from carbon_otel.instrumentation.import_hook import ImportHook

FRAMEWORKS: Final = ("sklearn", "subprocesses", "multiprocessing", "thread_pools", "uvicorn")


def install(hook: ImportHook) -> None:
    """Instrument every framework that is imported, and those that will be."""
    for name in FRAMEWORKS:
        framework = importlib.import_module(f"carbon_otel.instrumentation.{name}")
        hook.when_imported(framework.MODULE, framework.patch)

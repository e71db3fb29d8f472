"""Processes of `multiprocessing`, started from a stage, hang in its trace, by their environment."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import MutableMapping
from types import ModuleType
from typing import Any, Final

from carbon_otel.guard import contain
from carbon_otel.instrumentation.import_hook import Undo, replace
from carbon_otel.stages.api import inject

MODULE: Final = "multiprocessing.process"

_environment = threading.Lock()


def _renew() -> None:
    """A process that is forked runs within `start`, and so with the lock held; it may start others."""
    global _environment
    _environment = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


def patch(module: ModuleType) -> Undo:
    original = module.BaseProcess.start

    @functools.wraps(original)
    def start(self: Any) -> Any:
        nothing: MutableMapping[str, str] = {}
        ours = contain("handing the trace to a process", nothing, inject, {})
        if not ours:
            return original(self)
        # `multiprocessing` takes no environment: the child gets the process's as it is at this moment.
        with _environment:
            before = {name: os.environ.get(name) for name in ours}
            os.environ.update(ours)
            try:
                return original(self)
            finally:
                for name, value in before.items():
                    if value is None:
                        os.environ.pop(name, None)
                    else:
                        os.environ[name] = value

    return replace(module.BaseProcess, "start", start)

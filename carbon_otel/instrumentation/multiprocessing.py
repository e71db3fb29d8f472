"""multiprocessing: processes started from a stage continue its trace and add to its run.

A fork inherits the stage. A process that is started in another way (`spawn`, `forkserver`) gets the variables
with its preparation data, and sets them as it unpickles these, before its main module is imported. The environment
of the parent does not change, because children that other threads start would inherit it.

The workers of a pool start without a stage: their tasks bring their stages.

`multiprocess` is a copy of the package, which pathos and datasets use.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any, Final

from carbon_otel.guard import contain, guarded
from carbon_otel.handover import NO_WORK, present
from carbon_otel.instrumentation.base import Undo, replace
from carbon_otel.stages.api import inject
from carbon_otel.stages.handing_on import is_worker, no_stage

_CARRIER: Final = "_carbon_otel_variables"


class _Variables(dict[str, str]):
    """Environment variables that are set in the process that unpickles them; it needs no carbon_otel for that."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"import os; os.environ.update({dict(self)!r})", {})


class ProcessIntegration:
    """A worker of a pool starts outside of the stage that starts it."""

    def __init__(self, module: str) -> None:
        self.module = module

    def connect(self, module: ModuleType) -> Undo:
        process: Any = module.BaseProcess
        original = process.start

        @functools.wraps(original)
        def start(self: Any) -> Any:
            if not contain("starting a process", False, is_worker, self):
                return original(self)
            with no_stage():
                return original(self)

        return replace(process, "start", start)


class SpawnIntegration:
    """The preparation data carries the variables to a main module that calls `instrument()` on import."""

    def __init__(self, module: str) -> None:
        self.module = module

    def connect(self, module: ModuleType) -> Undo:
        original = module.get_preparation_data

        @functools.wraps(original)
        def get_preparation_data(*args: Any, **kwargs: Any) -> Any:
            data = original(*args, **kwargs)
            if present.get() is not NO_WORK:
                with guarded("passing the trace to a process"):
                    variables = inject(_Variables())
                    if variables:
                        data[_CARRIER] = variables
            return data

        return replace(module, "get_preparation_data", get_preparation_data)

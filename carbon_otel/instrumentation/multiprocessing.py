"""multiprocessing: processes started from a stage continue its trace.

The process object carries the environment variables of the trace. The environment of the parent does not change,
because children that other threads start would inherit it. A forked child sets them before it calls its target. A
spawned child (`spawn`, `forkserver`, joblib's loky) sets them as it unpickles them; `multiprocessing` sends them
with the preparation data, which comes before the main module is imported. coverage.py enters child processes in
the same places.
"""

from __future__ import annotations

import functools
import os
from types import ModuleType
from typing import Any, Final

from carbon_otel.guard import guarded
from carbon_otel.instrumentation.base import Undo, replace, undo_all
from carbon_otel.stages.api import inject

_CARRIER: Final = "_carbon_otel_variables"


class _Variables(dict[str, str]):
    """Environment variables that are set in the process that unpickles them; it needs no carbon_otel for that."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"import os; os.environ.update({dict(self)!r})", {})


class ProcessIntegration:
    """The process object carries the variables while it starts."""

    module = "multiprocessing.process"

    def connect(self, module: ModuleType) -> Undo:
        process: Any = module.BaseProcess
        start, bootstrap = process.start, process._bootstrap

        @functools.wraps(start)
        def start_with_trace(self: Any) -> Any:
            with guarded("passing the trace to a process"):
                variables = inject(_Variables())
                if variables:
                    setattr(self, _CARRIER, variables)
            try:
                return start(self)
            finally:
                with guarded("passing the trace to a process"):
                    vars(self).pop(_CARRIER, None)

        @functools.wraps(bootstrap)
        def bootstrap_with_trace(self: Any, *args: Any, **kwargs: Any) -> Any:
            with guarded("reading the trace of the parent process"):
                os.environ.update(vars(self).pop(_CARRIER, None) or {})
            return bootstrap(self, *args, **kwargs)

        return undo_all(
            [
                replace(process, "start", start_with_trace),
                replace(process, "_bootstrap", bootstrap_with_trace),
            ]
        )


class SpawnIntegration:
    """The preparation data carries the variables to a main module that calls `instrument()` on import."""

    module = "multiprocessing.spawn"

    def connect(self, module: ModuleType) -> Undo:
        original = module.get_preparation_data

        @functools.wraps(original)
        def get_preparation_data(*args: Any, **kwargs: Any) -> Any:
            data = original(*args, **kwargs)
            with guarded("passing the trace to a process"):
                variables = inject(_Variables())
                if variables:
                    data[_CARRIER] = variables
            return data

        return replace(module, "get_preparation_data", get_preparation_data)

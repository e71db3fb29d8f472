"""Process pools: stages in a task are in the trace, and in the run, of the stage that submitted it.

The stage travels with the task, because a worker serves many stages: `ProcessPoolExecutor`, and the one of loky,
which joblib uses. joblib's other backends use `multiprocessing.pool`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from carbon_otel.instrumentation.base import Undo, replace
from carbon_otel.stages.handing_on import for_process


class ProcessPoolIntegration:
    """Passes the current stage on with work that is submitted to a `ProcessPoolExecutor` of the module."""

    def __init__(self, module: str) -> None:
        self.module = module

    def connect(self, module: ModuleType) -> Undo:
        original = module.ProcessPoolExecutor.submit

        @functools.wraps(original)
        def submit(self: Any, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
            return original(self, for_process(fn), *args, **kwargs)

        return replace(module.ProcessPoolExecutor, "submit", submit)

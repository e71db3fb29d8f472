"""multiprocessing.pool: stages in a task are in the trace, and in the run, of the stage that submitted it.

Both kinds of pool make their tasks in two methods. `ThreadPool` inherits them, and joblib's pools do, too. The
package `multiprocess` is a copy.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from carbon_otel.instrumentation.base import Undo, replace, undo_all
from carbon_otel.stages.handing_on import for_process, for_thread


class PoolIntegration:
    """Passes the current stage on with the tasks of a pool."""

    def __init__(self, module: str) -> None:
        self.module = module

    def connect(self, module: ModuleType) -> Undo:
        pool, threads = module.Pool, module.ThreadPool
        apply_async, generate = pool.apply_async, vars(pool)["_guarded_task_generation"]

        def handed_on(self: Any, function: Callable[..., Any]) -> Callable[..., Any]:
            return for_thread(function) if issubclass(type(self), threads) else for_process(function)

        @functools.wraps(apply_async)
        def with_stage(self: Any, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            return apply_async(self, handed_on(self, func), *args, **kwargs)

        @functools.wraps(generate)
        def tasks_with_stage(self: Any, result_job: Any, func: Callable[..., Any], iterable: Any) -> Any:
            return generate(self, result_job, handed_on(self, func), iterable)

        return undo_all(
            [
                replace(pool, "apply_async", with_stage),
                replace(pool, "_guarded_task_generation", tasks_with_stage),
            ]
        )

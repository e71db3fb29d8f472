"""ThreadPoolExecutor: stages in submitted work are children of the stage that submitted it.

`asyncio.to_thread` and `loop.run_in_executor` submit their work to such a pool.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from carbon_otel.instrumentation.base import Undo, replace
from carbon_otel.stages.handing_on import for_thread


class ThreadPoolIntegration:
    """Passes the current stage on to work that is submitted to a pool."""

    module = "concurrent.futures.thread"

    def connect(self, module: ModuleType) -> Undo:
        original = module.ThreadPoolExecutor.submit

        @functools.wraps(original)
        def submit(self: Any, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
            return original(self, fn if _pickles(self) else for_thread(fn), *args, **kwargs)

        return replace(module.ThreadPoolExecutor, "submit", submit)


def _pickles(pool: Any) -> bool:
    """Whether it runs its work in other interpreters, as a kind of thread pool of Python 3.14 does."""
    interpreters: Any = sys.modules.get("concurrent.futures.interpreter")
    return interpreters is not None and issubclass(type(pool), interpreters.InterpreterPoolExecutor)

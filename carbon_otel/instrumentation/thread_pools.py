"""ThreadPoolExecutor: stages in submitted work are children of the stage that submitted it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from carbon_otel.instrumentation.base import Undo, replace
from carbon_otel.stages.open_stage import OpenStage, current


class ThreadPoolIntegration:
    """Passes the current stage on to work that is submitted to a pool."""

    module = "concurrent.futures.thread"

    def connect(self, module: ModuleType) -> Undo:
        original = module.ThreadPoolExecutor.submit

        @functools.wraps(original)
        def submit(self: Any, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
            stage = current.get()
            if stage is None or not callable(fn):
                return original(self, fn, *args, **kwargs)
            return original(self, functools.partial(_within, stage, fn), *args, **kwargs)

        return replace(module.ThreadPoolExecutor, "submit", submit)


def _within(stage: OpenStage, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    token = current.set(stage)
    try:
        return work(*args, **kwargs)
    finally:
        current.reset(token)

"""Work handed to a `ThreadPoolExecutor` from a stage opens its own stages below that one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

from carbon_otel.instrumentation.import_hook import Undo, replace
from carbon_otel.stages.open_stage import OpenStage, current

MODULE: Final = "concurrent.futures.thread"


def patch(module: ModuleType) -> Undo:
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

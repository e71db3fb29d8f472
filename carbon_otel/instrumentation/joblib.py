"""joblib: tasks of a `Parallel` in threads belong to the stage in which the `Parallel` was called.

joblib takes later tasks from the caller's iterator, and starts them, in threads that tell it of the end of earlier
ones. There, and in the threads that run the tasks, the stage of the call is made the current one.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, TracebackType
from typing import Any, cast
from weakref import WeakKeyDictionary

from carbon_otel import runtime
from carbon_otel.guard import contain
from carbon_otel.instrumentation.base import Undo
from carbon_otel.instrumentation.in_place import Around, Changed, unseen
from carbon_otel.stages.api import Recorder
from carbon_otel.stages.automatic import counting
from carbon_otel.stages.open_stage import OpenStage, current


class JoblibIntegration:
    """Hands the stage of a call of `Parallel` on."""

    module = "joblib.parallel"

    def connect(self, module: ModuleType) -> Undo:
        of_calls: _Stages = WeakKeyDictionary()
        of_batches: _Stages = WeakKeyDictionary()
        changed = Changed()
        for owner, method, around in (
            (module.Parallel, "__call__", Around(_remember, of_calls)),
            (module.Parallel, "dispatch_one_batch", Around(_within, of_calls)),
            (module.BatchedCalls, "__init__", Around(_remember, of_batches)),
            (module.BatchedCalls, "__call__", Around(_within, of_batches)),
        ):
            changed.put(vars(owner)[method], around)
        return changed.undo


# The stage of a call, and the one that the call counts units for.
_Stages = WeakKeyDictionary[Any, tuple[OpenStage, OpenStage | None]]


def _remember(stages: _Stages, owner: Any, /, *_: Any, **__: Any) -> None:
    contain("handing a stage on to joblib", None, _remember_stage, stages, owner)


def _remember_stage(stages: _Stages, owner: Any) -> None:
    active = cast("Recorder | None", runtime.begun())
    stage = active.engine.parent_of(current.get()) if active is not None else None
    if stage is not None:
        stages[owner] = stage, counting.get()
    else:
        stages.pop(owner, None)


def _within(stages: _Stages, owner: Any, /, *_: Any, **__: Any) -> _Within | None:
    stage = contain("taking a stage from joblib", None, stages.get, owner)
    return None if stage is None or stage[0] is current.get() else _Within(*stage)


class _Within:
    """A block in which a stage is the current one."""

    __slots__ = ("_before", "_counts", "_stage")

    def __init__(self, stage: OpenStage, counts: OpenStage | None) -> None:
        self._stage = stage
        self._counts = counts
        self._before: tuple[OpenStage | None, OpenStage | None] | None = None

    def __enter__(self) -> Callable[[Any], Any]:
        self._before = current.get(), counting.get()
        current.set(self._stage)
        counting.set(self._counts)
        return unseen

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            current.set(self._before[0])
            counting.set(self._before[1])

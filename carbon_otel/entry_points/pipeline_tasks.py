"""The stages of tasks that an orchestrator runs in its own processes, for its plugins."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Final

import carbon_otel
from carbon_otel import config, runtime
from carbon_otel.guard import contain
from carbon_otel.instrumentation import tasks
from carbon_otel.stages.api import Stage

_FLUSH_TIMEOUT_S: Final = 5.0


class TaskStages:
    """The open stages of tasks, by a key of the orchestrator. Raises nothing."""

    def __init__(self) -> None:
        self._open: dict[Hashable, Stage] = {}
        self._begun_here = False

    def begin(self, key: Hashable, name: str, tags: Iterable[str] = ()) -> None:
        """A task begins in this thread."""
        contain("opening the stage of a task", None, self._begin, key, lambda: tasks.stage_of(name, tags))

    def begin_pipeline(self, key: Hashable, name: str) -> None:
        """A pipeline begins, whose tasks are stages of their own."""
        contain("opening the stage of a pipeline", None, self._begin, key, lambda: Stage("pipeline", name))

    def end(self, key: Hashable, error: BaseException | None = None) -> None:
        """The task, or the pipeline, is over."""
        stage = self._open.pop(key, None)
        if stage is not None:
            stage.__exit__(None if error is None else type(error), error, None)

    def send(self) -> None:
        """What was measured is sent, because the process may end without `atexit`."""
        session = runtime.begun()
        if session is not None:
            contain("flushing after a task", None, session.prepare_exit, _FLUSH_TIMEOUT_S)

    def stop(self) -> None:
        """The process ends; the measurement, too, if it was begun for a task."""
        if self._begun_here:
            self._begun_here = False
            contain("ending the measurement of a task", None, runtime.stop, in_worker=True)

    def _begin(self, key: Hashable, make: Callable[[], Stage]) -> None:
        if runtime.begun_or_origin() is None and config.resolve({}).measure_tasks:
            carbon_otel.instrument()
            self._begun_here = runtime.begun() is not None
        self._open[key] = make().__enter__()

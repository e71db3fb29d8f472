"""The open experiment runs, and the run that a new stage belongs to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from carbon_otel.stages.open_stage import OpenStage


class OpenRuns:
    """Changed under the engine's lock; `here` is called without it."""

    def __init__(self) -> None:
        self._ids: dict[str, object] = {}
        self._stages: dict[str, OpenStage] = {}
        # The last run begun in each thread, and the run that is open if there is only one.
        self._last_of_thread: dict[int, OpenStage] = {}
        self._only: OpenStage | None = None

    def __iter__(self) -> Iterator[OpenStage]:
        return iter(self._stages.values())

    def __len__(self) -> int:
        return len(self._stages)

    def reserve(self, run_id: str) -> bool:
        """Take the id of a run that is about to open; False if the run is already open."""
        taken = object()
        return self._ids.setdefault(run_id, taken) is taken  # one step, so that no lock is needed

    def release(self, run_id: str) -> None:
        """Give back the id of a run that could not open."""
        self._ids.pop(run_id, None)

    def get(self, run_id: str) -> OpenStage | None:
        """The stage of an open run."""
        return self._stages.get(run_id)

    def add(self, stage: OpenStage) -> None:
        """The stage of a run is open: from now on, stages of other threads can open below it."""
        self._stages[stage.info.run_id or ""] = stage
        self._review()

    def remove(self, stage: OpenStage) -> None:
        """The stage of a run has ended."""
        self._stages.pop(stage.info.run_id or "", None)
        self._ids.pop(stage.info.run_id or "", None)
        self._review()

    def here(self, inherited: OpenStage | None) -> OpenStage | None:
        """The parent of a stage opened here.

        The inherited stage; else the last run begun in this thread; else the only open run.
        """
        if not self._stages:
            return inherited
        begun_here = self._last_of_thread.get(threading.get_ident())
        if inherited is not None:
            later = begun_here is not None and begun_here.info.id > inherited.info.id
            return begun_here if later else inherited
        return begun_here if begun_here is not None else self._only

    def _review(self) -> None:
        """Find the parents of stages in advance, because runs change far less often than stages."""
        runs = sorted(self._stages.values(), key=lambda run: run.info.id)
        self._last_of_thread = {run.thread: run for run in runs}
        outer = {run.parent.run for run in runs if run.parent is not None}
        innermost = [run for run in runs if run not in outer]
        self._only = innermost[0] if len(innermost) == 1 else None

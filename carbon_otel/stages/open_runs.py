"""The stages of the open experiment runs, and the run that a new stage belongs to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from carbon_otel.stages.open_stage import OpenStage


def _none() -> None:
    return None


class OpenRuns:
    """Changed under the engine's lock; `here` is called without it.

    A run is at rest while all work belongs to others. Whoever knows the runs sets the two functions:

    Attributes:
        active: the run that the experiment tracker itself calls active in this thread.
        entered: the run that was entered last in this context; False if there are several and none is known to be
            meant.
        begun: the number of runs so far; `last_name` is the name of the last one.
    """

    def __init__(self) -> None:
        self.begun = 0
        self.last_name = ""
        self.active: Callable[[], OpenStage | None] = _none
        self.entered: Callable[[], OpenStage | Literal[False] | None] = _none
        self._ids: dict[str, object] = {}
        self._stages: dict[str, OpenStage] = {}
        self._at_work: set[OpenStage] = set()
        # The number of runs at work that are nested in each run, the runs at work with none, and the only one of
        # these: kept up to date, because runs change far less often than stages.
        self._within: dict[OpenStage, int] = {}
        self._innermost: dict[OpenStage, None] = {}
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
        self.begun, self.last_name = self.begun + 1, stage.info.name
        self.wake(stage)

    def remove(self, stage: OpenStage) -> None:
        """The stage of a run has ended."""
        self.rest(stage)
        self._within.pop(stage, None)
        self._stages.pop(stage.info.run_id or "", None)
        self._ids.pop(stage.info.run_id or "", None)

    def wake(self, stage: OpenStage) -> None:
        """The run is at work from now on."""
        if stage not in self._at_work:
            self._at_work.add(stage)
            self._review(stage, 1)

    def rest(self, stage: OpenStage) -> None:
        """The run is at rest from now on."""
        if stage in self._at_work:
            self._at_work.discard(stage)
            self._review(stage, -1)

    def restore(self) -> None:
        """Find the only run at work again, after an exception has broken off a change."""
        self._at_work &= set(self._stages.values())
        self._within, self._innermost = {}, {}
        for stage in self._stages.values():
            if stage in self._at_work:
                self._review(stage, 1)

    def above(self, run_id: str | None, inherited: OpenStage | None) -> OpenStage | None:
        """The parent of a run nested in this one: the run, or the inherited stage if that was opened later."""
        run = self._stages.get(run_id or "")
        if inherited is None or (run is not None and run.info.id >= inherited.info.id):
            return run
        return inherited

    def here(self, inherited: OpenStage | None) -> OpenStage | None:
        """The parent of a stage opened here.

        The run that the tracker calls active in this thread, unless the inherited stage is within it; else what
        was opened last in this context, the inherited stage or a run; else the only run at work.
        """
        if not self._stages:
            return inherited
        run = self.active()
        if run is not None:
            if inherited is None or inherited.run is run:
                return inherited or run
            return inherited if inherited.info.id > run.info.id and inherited.is_in(run) else run
        entered = self.entered()
        if inherited is not None:
            return entered if entered and entered.info.id > inherited.info.id else inherited
        return (entered or None) if entered is not None else self._only

    def _review(self, stage: OpenStage, change: int) -> None:
        """Find the only innermost run at work, after one run has woken or gone to rest."""
        self._place(stage)
        above = stage.parent.run if stage.parent is not None else None
        while above is not None:
            if above.open:
                self._within[above] = self._within.get(above, 0) + change
                self._place(above)
            above = above.parent.run if above.parent is not None else None
        self._only = next(iter(self._innermost)) if len(self._innermost) == 1 else None

    def _place(self, run: OpenStage) -> None:
        if run in self._at_work and not self._within.get(run):
            self._innermost[run] = None
        else:
            self._innermost.pop(run, None)

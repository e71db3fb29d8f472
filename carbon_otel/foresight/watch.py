"""A forecast is held against the run that it was made for.

The last forecast of the process belongs to the run that is open where it is made, else to the run or the training
that opens next. It is compared with the energy of the training in that run: outermost training stages, with all
that is in them; a run without one is compared as a whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, cast

from carbon_otel import runtime
from carbon_otel.records import RUN, Foresight, StageInfo
from carbon_otel.sinks import Sink, StageEnd
from carbon_otel.stages.api import Recorder
from carbon_otel.stages.open_stage import current

TRAINING: Final = "training"


@dataclass(slots=True)
class _Bound:
    """A forecast and the stage that it belongs to; `trained_j` is energy of ended trainings in it."""

    foresight: Foresight
    trained_j: list[float] = field(default_factory=list)


class Watch(Sink):
    """Remembers a forecast until its run has ended, and tells the sinks how they compare."""

    closes_first = True

    def __init__(self, tell: Callable[[StageInfo, Foresight], None]) -> None:
        self._tell = tell
        self._waiting: list[Foresight] = []
        self._bound: dict[StageInfo, _Bound] = {}

    def remember(self, foresight: Foresight, here: StageInfo | None) -> None:
        """The forecast belongs to the run around `here`, else to what opens next; it replaces an earlier one."""
        run = _run_of(here)
        self._waiting.clear()
        if run is None:
            self._waiting.append(foresight)
        else:
            self._bind(run, foresight)

    def stage_opened(self, stage: StageInfo) -> None:
        if self._waiting and not stage.joined and stage.kind in (RUN, TRAINING):
            # Two threads may open one at the same time.
            waiting = self._waiting
            self._waiting = []
            if waiting:
                self._bound[stage] = _Bound(waiting[-1])

    def stage_closed(self, stage: StageInfo, end: StageEnd) -> None:
        if not self._bound:
            return
        own = self._bound.pop(stage, None)
        if stage.kind == TRAINING and not _in_training(stage):
            joules = end.footprint.energy_j
            above = None if own is not None else self._nearest(stage.parent)
            if above is not None:
                bound = self._bound[above]
                bound.trained_j.append(joules)
                self._tell(above, bound.foresight._replace(measured_j=sum(bound.trained_j)))
                return
            if own is not None:
                own.trained_j.append(joules)
        if own is not None:
            measured_j = sum(own.trained_j) or end.footprint.energy_j
            self._tell(stage, own.foresight._replace(measured_j=measured_j))

    def _bind(self, stage: StageInfo, foresight: Foresight) -> None:
        self._bound[stage] = _Bound(foresight)
        self._tell(stage, foresight)

    def _nearest(self, stage: StageInfo | None) -> StageInfo | None:
        while stage is not None and stage not in self._bound:
            stage = stage.parent
        return stage


def remember(foresight: Foresight) -> None:
    """Hold this forecast against the run that is open here, or that opens next."""
    global _early
    active = cast("Recorder | None", runtime.active())
    if active is None:
        _early = foresight  # until `instrument()`
        return
    here = active.engine.parent_of(current.get())
    _of(active).remember(foresight, here.info if here is not None else None)


def begin() -> None:
    """A measurement has begun: it gets the forecast that was made before it."""
    global _early
    if _early is not None:
        foresight, _early = _early, None
        remember(foresight)


_early: Foresight | None = None


def _of(active: Recorder) -> Watch:
    sinks = active.engine.sinks
    for sink in sinks:
        if isinstance(sink, Watch):
            return sink
    watch = Watch(sinks.foreseen)
    sinks.add(watch)
    return watch


def _run_of(stage: StageInfo | None) -> StageInfo | None:
    while stage is not None and stage.kind != RUN:
        stage = stage.parent
    return stage


def _in_training(stage: StageInfo) -> bool:
    above = stage.parent
    while above is not None:
        if above.kind == TRAINING:
            return True
        above = above.parent
    return False

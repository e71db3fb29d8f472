"""A forecast is held against the run that it was made for.

The last forecast of the process belongs to the run that is open where it is made, else to the run or the training
that opens next, in this measurement or in one that begins later. A forecast for accelerators that the machine
lacks belongs to none. It is compared with the energy of the training in that run: outermost training stages, with
all that is in them; a run without one is compared as a whole.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple, cast

from carbon_otel import runtime
from carbon_otel.foresight.here import Accelerators
from carbon_otel.guard import logger
from carbon_otel.records import RUN, Foresight, StageInfo
from carbon_otel.sinks import Sink, StageEnd
from carbon_otel.stages.api import Recorder
from carbon_otel.stages.open_stage import current

TRAINING: Final = "training"


class _Waiting(NamedTuple):
    """A forecast that no run has yet, and the accelerators that it is for, if it is for any."""

    foresight: Foresight
    wanted: Accelerators | None


# At most one: a newer forecast replaces it. Two threads may take it at the same time, and only one gets it.
_waiting: Final[deque[_Waiting]] = deque(maxlen=1)


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
        self._bound: dict[StageInfo, _Bound] = {}

    def bind(self, run: StageInfo, foresight: Foresight) -> None:
        """The forecast belongs to this run."""
        self._bound[run] = _Bound(foresight)
        self._tell(run, foresight)

    def stage_opened(self, stage: StageInfo) -> None:
        if _waiting and not stage.joined and stage.kind in (RUN, TRAINING):
            taken = _take()
            if taken is not None:
                self._bound[stage] = _Bound(taken.foresight)

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

    def _nearest(self, stage: StageInfo | None) -> StageInfo | None:
        while stage is not None and stage not in self._bound:
            stage = stage.parent
        return stage


def remember(foresight: Foresight, wanted: Accelerators | None = None) -> bool:
    """Hold this forecast against the run that is open here, or that opens next; it replaces an earlier one.

    Returns:
        False if it is for accelerators that this machine lacks: then it is held against no run.
    """
    active = cast("Recorder | None", runtime.active())
    if active is None:
        _waiting.append(_Waiting(foresight, wanted))  # until `instrument()`
        return True
    if wanted is not None and not wanted.are_here():
        return False
    watch = _of(active)
    here = active.engine.parent_of(current.get())
    run = _run_of(here.info if here is not None else None)
    if run is None:
        _waiting.append(_Waiting(foresight, wanted))
    else:
        _waiting.clear()
        watch.bind(run, foresight)
    return True


def begin() -> None:
    """A measurement has begun: it gets the forecast that was made before it."""
    taken = _take()
    if taken is not None and not remember(*taken):
        assert taken.wanted is not None
        logger.info("the forecast for %s is compared with no run of this machine", taken.wanted.text)


def _take() -> _Waiting | None:
    try:
        return _waiting.pop()
    except IndexError:
        return None


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

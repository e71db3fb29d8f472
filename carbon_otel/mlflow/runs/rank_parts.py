"""The parts of a rank's work, each of which is a part of one run of rank 0, or of none.

Stages open before this rank knows the run of rank 0, and before rank 0 has begun it. They open in a part without a
run, which becomes a part of the run when that is known: while something is under way in the part, the run that
rank 0 has now, and else the one in which it was for most of that time. A part without a run ends when nothing is
under way in it. Its run may still become known for a while, since rank 0 may have been slow to tell it.

A part ends with a stage too, if no other is open. The next one may be in another run: this rank may go on to it
while rank 0 still ends the last one. So the next part is one of that run only when rank 0 has gone on, or after a
time.
"""

from __future__ import annotations

import contextvars
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from carbon_otel import clock
from carbon_otel.handover import Work
from carbon_otel.mlflow.runs.rank_word import NOTHING, Since, Word
from carbon_otel.mlflow.runs.recorder import RunRecorder
from carbon_otel.records import UNATTRIBUTED, UNKNOWN_RUN, StageInfo
from carbon_otel.stages.engine import Engine
from carbon_otel.stages.open_stage import OpenStage

# The own time of a part from before its run is known counts for the run: so old is a part that is not in use.
_OLDEST_S: Final = 5.0
# So long the run of a part that has ended may become known, and so many parts wait for that.
_KNOWN_WITHIN_S: Final = 60.0
_MOST_WAITING: Final = 100
# A part that took less does not end with a stage: that has a price.
_SHORTEST_S: Final = 0.1
# Rank 0 ends a run within this time after the last stage of this rank in it, or else goes on in that run.
_GOES_ON_S: Final = 60.0


@dataclass(eq=False)
class _Part:
    """The work of this rank from one moment on.

    `run` is what it is a part of: an id and an address, if known. `from_ns` and `to_ns` are the time of its
    stages, in nanoseconds since the epoch; 0 before the first one begins or ends. `after_ns` is the end of the
    stage that it follows, and `former` the run of that; 0 and empty, if it follows none.
    """

    stage: OpenStage
    began_s: float
    run: str = ""
    from_ns: int = 0
    to_ns: int = 0
    after_ns: int = 0
    former: str = ""
    ended_s: float = 0.0

    @property
    def id(self) -> str:
        return self.stage.info.run_id or ""

    @property
    def age_s(self) -> float:
        return clock.monotonic() - self.began_s

    def run_in(self, word: Word) -> Since:
        """Its run by its time; `NOTHING` if it has used nothing, or rank 0 had no run then."""
        from_ns = self.from_ns or self.after_ns
        return word.longest(from_ns, self.to_ns or time.time_ns()) if from_ns else NOTHING

    def may_be_of_next(self, now: Since) -> bool:
        """Whether rank 0 may be about to leave the run of the stage before."""
        is_same = now.unix_ns < self.after_ns and self.former in ("", now.run)
        return bool(now.run) and is_same and self.age_s < _GOES_ON_S


class RankParts:
    """The parts of this rank, one after the other. One thread looks, and any may tell of stages.

    A part takes the place of the process itself: it pays for what belongs to no stage, and all stages open in it.
    So it opens only where no stage is open, and makes way for a run of this process.
    """

    def __init__(self, engine: Engine, recorder: RunRecorder, adopt: Callable[[Work | None], None]) -> None:
        """`adopt` puts later spans below those of a work."""
        self._engine = engine
        self._recorder = recorder
        self._adopt = adopt
        # One that ends as soon as nothing is under way in it.
        self._ending: _Part | None = None
        # Those that have ended, and whose run is not known.
        self._waiting: deque[_Part] = deque()
        self._adopted = ""
        self._part = self._new()

    def opened(self, stage: StageInfo) -> None:
        """A stage opens."""
        part = self._part
        if part is None:
            return
        if stage.run_id == part.id:
            part.from_ns = part.from_ns or stage.start_unix_ns
        elif stage.is_run:
            self._engine.settle_run(part.stage, _rests)

    def closed(self, stage: StageInfo) -> None:
        """A stage ends."""
        for part in self._part, self._ending:
            if part is not None and stage.run_id == part.id and not stage.is_run:
                part.to_ns = time.time_ns()

    def ends_with(self, stage: StageInfo) -> bool:
        """Whether a part may end with this stage."""
        part = self._ending or self._part
        is_outermost = stage.parent is None or stage.parent.is_run
        return part is not None and stage.run_id == part.id and is_outermost and part.age_s >= _SHORTEST_S

    @property
    def awaits_run(self) -> bool:
        """Whether the run of the present part is not known."""
        return self._part is not None and not self._part.run

    @property
    def lacks_run(self) -> bool:
        """Whether a stage has ended whose run is not known."""
        part = self._part
        return bool(self._waiting) or (part is not None and not part.run and part.to_ns > 0)

    def look(self, word: Word, is_over: bool = False) -> None:
        """Follow rank 0, which has left this word.

        `is_over` says that what is under way is about to end, so that this look is the last that it can wait for.
        """
        self._bind_waiting(word)
        if self._ending is not None:
            if not self._close(self._ending):
                return
            self._ending = None
        part = self._part
        others = (stage for stage in tuple(self._engine.runs) if part is None or stage is not part.stage)
        if next(others, None) is not None:
            self._end()
            return
        if part is not None and not part.run:
            part = self._follow(part, word, is_over)
        if is_over:
            return
        if part is None or (part.run and part.run != word.now.run):
            self._end()
            if self._ending is None:
                self._part = part = self._new()
                if part is not None and word.now.run:
                    self._go_into(part, word.now)
        if self._adopted and self._adopted != word.now.run:
            self._follow_span(NOTHING)

    def end_with(self, stage: StageInfo) -> None:
        """A stage has ended, and the sinks have been told: what follows may be in another run."""
        before = self._ending or self._part
        if before is None:
            return
        if before is self._part:
            after = self._renewed(before, besides=stage)
        elif self._close(before, besides=stage):
            self._ending = None
            self._part = after = self._new()
        else:
            return
        if after is not None:
            after.after_ns, after.former = before.to_ns, before.run
            if before.run:
                self._recorder.may_go_on(after.id, before.run.split(" ", 1)[0])

    def _follow(self, part: _Part, word: Word, is_over: bool) -> _Part | None:
        """Make a part a part of its run, if that is known; return the part that is the present one then."""
        in_use, now = self._engine.is_in_use(part.stage), word.now
        found = part.run_in(word) if is_over or not in_use else NOTHING
        if in_use and not found.run:
            found = now
        if found.run in ("", now.run) and not is_over and part.may_be_of_next(now):
            return part
        is_due = part.from_ns or part.after_ns or now.run or part.age_s > _OLDEST_S
        if is_due and not found.run and not in_use:
            fresh = self._renewed(part)
            if fresh is None:
                return self._part
            part, found = fresh, now
        if found.run:
            self._go_into(part, found)
        return part

    def _go_into(self, part: _Part, found: Since) -> None:
        """The present part is one of this run."""
        self._bind(part, found)
        self._follow_span(found)

    def _follow_span(self, found: Since) -> None:
        self._adopted = found.run
        self._adopt(Work(found.variables) if found.run else None)

    def _bind(self, part: _Part, found: Since) -> None:
        part.run = found.run
        self._recorder.bind(part.id, *found.run.split(" ", 1))

    def _bind_waiting(self, word: Word) -> None:
        for part in tuple(self._waiting):
            found = part.run_in(word)
            if found.run:
                self._bind(part, found)
            elif clock.monotonic() - part.ended_s < _KNOWN_WITHIN_S and len(self._waiting) <= _MOST_WAITING:
                continue
            else:
                self._recorder.forget(part.id)
            self._waiting.remove(part)

    def _renewed(self, before: _Part, besides: StageInfo | None = None) -> _Part | None:
        """The part after the present one; None if that is in use, or nothing can be opened after it."""
        epochs = self._engine.shares.epochs_in(before.stage)
        if not self._close(before, besides):
            return None
        self._part = after = self._new()
        if after is not None:
            after.stage.allowance = before.stage.allowance
            self._engine.shares.go_on(epochs, after.stage)
        return after

    def _end(self) -> None:
        part, self._part = self._part, None
        if part is None:
            return
        self._engine.settle_run(part.stage, _rests)
        if self._adopted:
            self._follow_span(NOTHING)
        if not self._close(part):
            self._ending = part

    def _close(self, part: _Part, besides: StageInfo | None = None) -> bool:
        """End a part, unless a stage is under way in it, `besides` one that has just ended."""
        is_idle = partial(self._is_idle, part.stage, besides)
        if is_idle():
            self._engine.close(part.stage, provided=is_idle)
        if part.stage.open:
            return False
        part.ended_s = clock.monotonic()
        if not part.run and part.to_ns:
            self._waiting.append(part)
        elif not part.run:
            self._recorder.forget(part.id)
        return True

    def _is_idle(self, stage: OpenStage, besides: StageInfo | None) -> bool:
        return not self._engine.is_in_use(stage, besides)

    def _new(self) -> _Part | None:
        run_id = f"{UNKNOWN_RUN}{uuid.uuid4().hex}"
        self._recorder.join(run_id, "")
        # In another context: outside of what is open on this thread.
        stage = contextvars.Context().run(
            self._engine.open_run, run_id, UNATTRIBUTED, None, joined=True, kind=UNATTRIBUTED
        )
        if stage is None:
            return None
        if not self._engine.pays_alone(stage):
            self._engine.close(stage)
            self._recorder.forget(run_id)
            return None
        return _Part(stage, clock.monotonic())


def _rests() -> bool:
    return False

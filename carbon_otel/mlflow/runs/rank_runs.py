"""The run of rank 0, which the other ranks of its training work for.

Rank 0 leaves the variables of its run on the board of the ranks, and another rank looks there at each tick. Stages
of that rank may open before it knows the run, and before rank 0 has begun it. They open in a part without a run,
which becomes a part of the run when that is known. Until then a new part begins whenever nothing is under way, so
that what has ended before counts for no run. The end of a training is a look too, which the training waits for: it
may have taken less than a tick.

A rank whose process was started from a run takes part in that from its beginning, without the board.
"""

from __future__ import annotations

import contextvars
import json
import time
import uuid
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from carbon_otel import clock
from carbon_otel.background import Worker
from carbon_otel.guard import logger
from carbon_otel.handover import RUN as RUN_VARIABLE
from carbon_otel.handover import Work
from carbon_otel.mlflow.runs.recorder import RunRecorder
from carbon_otel.ranks import Board, group
from carbon_otel.records import UNATTRIBUTED, UNKNOWN_RUN, StageInfo
from carbon_otel.sinks import Sink, StageEnd
from carbon_otel.stages.engine import Engine
from carbon_otel.stages.open_stage import OpenStage

_TRAINING: Final = "training"
# The end of the process group, or of a training, waits so long for a look at the board.
_LAST_LOOK_S: Final = 0.3
# The end of the measurement waits longer: PyTorch aborts a process whose interpreter ends within its calls.
_LAST_CALL_S: Final = 2.0
# A sink is told of a run before its stage is open: its word waits so long for that.
_OPENS_S: Final = 1.0
# The own time of a part from before its run is known counts for the run: so old is a part that is not in use.
_OLDEST_S: Final = 5.0

Variables = dict[str, str]
_T = TypeVar("_T")


class RankRuns(Sink):
    """Keeps this rank in the run of rank 0, or tells the others of the run of this one, if it is rank 0."""

    def __init__(
        self,
        engine: Engine,
        recorder: RunRecorder,
        inject: Callable[[MutableMapping[str, str]], None],
        adopt: Callable[[Work | None], None],
    ) -> None:
        """`inject` adds the variables of a stage opened here; `adopt` puts later spans below those of a work."""
        self._engine = engine
        self._inject = inject
        self._make_parts = partial(_Parts, engine, recorder, adopt)
        self._parts: _Parts | None = None
        self._worker = Worker("carbon_otel ranks")
        self._written: tuple[Board | None, Variables] = None, {}
        self._dead: Board | None = None  # it has failed, and is not asked again
        self._over = False
        engine.before_tick.append(self._before_tick)

    def begin(self) -> None:
        """The rank of this process may be known."""
        if self._parts is None and group.rank is not None and group.rank.rank > 0:
            self._parts = self._make_parts()

    def group_changed(self, there: bool) -> None:
        """The process group is there, or will soon be gone."""
        self.begin()
        looked = self._worker.submit(self._look)
        if not there:
            looked.wait(_LAST_LOOK_S)

    def stage_opened(self, stage: StageInfo) -> None:
        if self._parts is not None:
            self._parts.note(stage)
        if stage.is_run and not stage.joined:
            self._worker.submit(partial(self._look_after, stage))

    def stage_closed(self, stage: StageInfo, end: StageEnd) -> None:
        if stage.is_run and not stage.joined and self._engine.alive:
            self._worker.submit(self._look)
        elif self._parts is not None and group.board is not None and self._parts.is_first_training(stage):
            self._worker.submit(partial(self._look, after_training=True)).wait(_LAST_LOOK_S)

    def end(self) -> None:
        """Look for the last time, before the measurement ends."""
        if self._over:
            return
        self._worker.submit(self._look).wait(_LAST_CALL_S)
        self._over = True
        self._worker.close()

    def _before_tick(self) -> None:
        if not self._over:
            self._worker.submit_latest(self, self._look)

    def _look_after(self, stage: StageInfo) -> None:
        """Look once the stage of a run is open."""
        until_s = clock.monotonic() + _OPENS_S
        while self._engine.runs.get(stage.run_id or "") is None and clock.monotonic() < until_s:
            time.sleep(0.002)
        self._look()

    def _look(self, after_training: bool = False) -> None:
        if self._over:
            return
        board = None if group.board is self._dead else group.board
        if self._parts is None:
            if board is not None:
                self._tell(board)
            return
        word = self._ask(board, board.read) if board is not None else None
        if not self._over:  # since the answer may have taken long
            self._parts.look(json.loads(word) if word else {}, after_training)

    def _tell(self, board: Board) -> None:
        variables: Variables = {}
        self._inject(variables)
        if RUN_VARIABLE not in variables:
            variables = {}
        before, written = self._written
        if before is not board or variables != written:
            self._written = board, variables
            self._ask(board, partial(board.write, json.dumps(variables)))

    def _ask(self, board: Board, call: Callable[[], _T]) -> _T | None:
        """Ask the board; None if it fails, as with the host that keeps it."""
        try:
            return call()
        except Exception as error:  # noqa: BLE001 - each kind of store raises its own
            logger.debug("the board of the ranks has failed", exc_info=error)
            self._dead = board
            return None


@dataclass(eq=False)
class _Part:
    """The work of this rank from one moment on. `run` is what it is a part of: an id and an address, if known."""

    stage: OpenStage
    began_s: float
    used: bool = False
    run: str = ""


class _Parts:
    """The parts of this rank, one after the other.

    A part takes the place of the process itself: it pays for what belongs to no stage, and all stages open in it.
    So it opens only where no stage is open, and makes way for a run of this process.
    """

    def __init__(self, engine: Engine, recorder: RunRecorder, adopt: Callable[[Work | None], None]) -> None:
        self._engine = engine
        self._recorder = recorder
        self._adopt = adopt
        # One that ends as soon as nothing is under way in it.
        self._ending: _Part | None = None
        self._part = self._new()

    def note(self, stage: StageInfo) -> None:
        """A stage opens."""
        part = self._part
        if part is None:
            return
        if stage.run_id == part.stage.info.run_id:
            part.used = True
        elif stage.is_run:
            self._engine.settle_run(part.stage, _rests)

    def is_first_training(self, stage: StageInfo) -> bool:
        """Whether a stage is a training in a part whose run is not known, and in no other training."""
        part, outer = self._part, stage.parent
        return (
            part is not None
            and not part.run
            and stage.run_id == part.stage.info.run_id
            and stage.kind == _TRAINING
            and (outer is None or outer.kind != _TRAINING)
        )

    def look(self, variables: Variables, after_training: bool = False) -> None:
        """Follow rank 0, which has a run with these variables, or has none now.

        `after_training` says that a training has just ended, which may have been one in that run.
        """
        if self._ending is not None:
            if self._engine.is_in_use(self._ending.stage):
                return
            self._engine.close(self._ending.stage)
            self._ending = None
        part = self._part
        others = (stage for stage in tuple(self._engine.runs) if part is None or stage is not part.stage)
        run = variables.get(RUN_VARIABLE, "")
        if next(others, None) is not None:
            self._end()
        elif part is None or (part.run and part.run != run):
            self._end()
            if self._ending is None:
                self._part = self._new()
        elif not run:
            self._renew_if_idle(part)
        if run and self._part is not None and not self._part.run:
            self._bind(self._part, run, variables, after_training)

    def _bind(self, part: _Part, run: str, variables: Variables, after_training: bool) -> None:
        if not after_training and not self._engine.is_in_use(part.stage):
            fresh = self._renewed(part)
            if fresh is None:
                return
            part = fresh
        part.run = run
        self._recorder.bind(part.stage.info.run_id or "", *run.split(" ", 1))
        self._adopt(Work(variables))

    def _renew_if_idle(self, part: _Part) -> None:
        is_due = part.used or clock.monotonic() - part.began_s > _OLDEST_S
        if is_due and not self._engine.is_in_use(part.stage):
            self._renewed(part)

    def _renewed(self, before: _Part) -> _Part | None:
        epochs = self._engine.shares.epochs_in(before.stage)
        self._engine.close(before.stage)
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
        if part.run:
            self._adopt(None)
        if self._engine.is_in_use(part.stage):
            self._ending = part
        else:
            self._engine.close(part.stage)

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
            return None
        return _Part(stage, clock.monotonic())


def _rests() -> bool:
    return False

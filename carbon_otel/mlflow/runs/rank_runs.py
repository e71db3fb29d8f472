"""The run of rank 0, which the other ranks of its training work for.

Rank 0 leaves word of its runs on the board of the ranks (`rank_word.py`). Another rank looks there at each tick,
and adds to them (`rank_parts.py`). The end of a stage that is in no other one is a look too, for which the stage
waits: it may have taken less than a tick, and its span says the run.

A rank whose process was started from a run takes part in that from its beginning, without the board.
"""

from __future__ import annotations

import contextvars
import sys
import threading
import time
from collections.abc import Callable, MutableMapping
from functools import partial
from typing import ClassVar, Final, TypeVar

from carbon_otel import clock
from carbon_otel.background import Worker
from carbon_otel.guard import logger
from carbon_otel.handover import Work
from carbon_otel.mlflow.runs.rank_parts import RankParts
from carbon_otel.mlflow.runs.rank_word import Variables, Word
from carbon_otel.mlflow.runs.recorder import RunRecorder
from carbon_otel.ranks import Board, group
from carbon_otel.records import StageInfo
from carbon_otel.sinks import Sink, StageEnd
from carbon_otel.stages.engine import Engine

_MLFLOW: Final = "mlflow"
# The end of a stage waits so long for a look at the board.
_LOOK_S: Final = 0.3
# The end of the process group waits so long for the last word of rank 0, if a stage lacks its run.
_LAST_WORD_S: Final = 1.0
# The pauses between two looks for it.
_PAUSE_S: Final = 0.01
_LONGEST_PAUSE_S: Final = 0.2
# The end of the measurement waits longer: PyTorch aborts a process whose interpreter ends within its calls.
_LAST_CALL_S: Final = 2.0
# A sink is told of a run before its stage is open: its word waits so long for that.
_OPENS_S: Final = 1.0

_T = TypeVar("_T")


class RankRuns(Sink):
    """Keeps this rank in the run of rank 0, or tells the others of the run of this one, if it is rank 0."""

    # The span of a stage then says the run that is known at its end.
    closes_first: ClassVar[bool] = True

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
        self._make_parts = partial(RankParts, engine, recorder, adopt)
        self._parts: RankParts | None = None
        self._worker = Worker("carbon_otel ranks")
        self._word = Word()
        self._written: tuple[Board | None, Word] = None, self._word
        self._dead: Board | None = None  # it has failed, and is not asked again
        self._leaves = False  # the word is the last one
        # Set once the worker has made a call that took longer than the wait for it.
        self._overdue: threading.Event | None = None
        # The runs of this process that have not ended.
        self._opening: set[str] = set()
        self._over = False
        engine.before_tick.append(self._before_tick)

    def begin(self) -> None:
        """The rank of this process may be known."""
        if self._parts is None and group.rank is not None and group.rank.rank > 0:
            self._parts = self._make_parts()

    def group_changed(self, there: bool) -> None:
        """The process group is there, or will soon be gone."""
        self.begin()
        self._leaves = not there
        if there:
            self._worker.submit(self._look)
        else:
            self._look_for_the_last_time(_LAST_WORD_S)
            self._written = None, self._word  # nothing of ours keeps its store

    def stage_opened(self, stage: StageInfo) -> None:
        if self._parts is not None:
            self._parts.opened(stage)
        elif stage.is_run and not stage.joined:
            self._opening.add(stage.run_id or "")
            self._worker.submit(partial(self._look_after, stage))
        elif stage.known_run_id and not self._has_told_of(stage.known_run_id):
            # The worker may come too late to see the run.
            self._worker.submit(partial(self._tell, self._variables(), stage.start_unix_ns))

    def stage_closed(self, stage: StageInfo, end: StageEnd) -> None:
        if self._parts is not None:
            self._parts.closed(stage)
            if group.board is not None and self._parts.awaits_run and self._parts.ends_with(stage):
                self._wait_for(partial(self._look, is_over=True))
        elif stage.is_run and not stage.joined:
            self._opening.discard(stage.run_id or "")
            if self._engine.alive:
                self._worker.submit(partial(self._look, since_ns=time.time_ns()))

    def stage_told(self, stage: StageInfo) -> None:
        """The other sinks have been told of the end of a stage."""
        if self._parts is not None and self._parts.ends_with(stage):
            self._wait_for(partial(self._parts.end_with, stage))

    def end(self) -> None:
        """Look for the last time, before the measurement ends."""
        if self._over:
            return
        self._leaves = True
        self._look_for_the_last_time(_LAST_CALL_S)
        self._over = True
        self._worker.close()

    def _wait_for(self, call: Callable[[], object]) -> None:
        """Have the worker make a call, and wait for it; not while it is late with another one."""
        is_late = self._overdue is not None and not self._overdue.is_set()
        if is_late or self._over or self._worker.runs_here():
            return
        made = self._worker.submit(call)
        self._overdue = None if made.wait(_LOOK_S) else made

    def _before_tick(self) -> None:
        if not self._over:
            self._worker.submit_latest(self, self._look)

    def _look_after(self, stage: StageInfo) -> None:
        """Look once the stage of a run is open."""
        run_id, until_s = stage.run_id or "", clock.monotonic() + _OPENS_S
        while (
            self._engine.runs.get(run_id) is None and run_id in self._opening and clock.monotonic() < until_s
        ):
            time.sleep(0.002)
        self._look(since_ns=stage.start_unix_ns)

    def _look_for_the_last_time(self, timeout_s: float) -> None:
        looked = self._worker.submit(partial(self._look_to_the_end, clock.monotonic() + timeout_s))
        looked.wait(timeout_s + _LOOK_S)

    def _look_to_the_end(self, until_s: float) -> None:
        """Look, and wait for the last word of rank 0 if something lacks its run."""
        pause_s = _PAUSE_S
        while self._look(is_over=True) and clock.monotonic() < until_s:
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _look(self, *, since_ns: int = 0, is_over: bool = False) -> bool:
        """Look at the board; whether rank 0 may yet tell of a run that this rank lacks.

        `since_ns` is the time of what has changed, in nanoseconds since the epoch; 0 for now.
        """
        if self._over:
            return False
        if self._parts is None:
            self._tell(self._variables(), since_ns or time.time_ns())
            return False
        board = self._board()
        text = self._ask(board, board.read) if board is not None else None
        word = Word.of_text(text) if text else Word()
        if not self._over:  # since the answer may have taken long
            self._parts.look(word, is_over)
        return not word.is_last and self._parts.lacks_run

    def _variables(self) -> Variables:
        """Those of the run of this process, whatever is open on this thread."""
        variables: Variables = {}
        contextvars.Context().run(self._inject, variables)
        return variables

    def _tell(self, variables: Variables, since_ns: int) -> None:
        self._word = self._word.noted(variables, since_ns)
        board = self._board()
        if board is None:
            return
        # Without MLflow there is no run to wait for.
        word = self._word._replace(is_last=self._leaves or _MLFLOW not in sys.modules)
        if self._written != (board, word):
            self._written = board, word
            self._ask(board, partial(board.write, word.text()))

    def _has_told_of(self, run_id: str) -> bool:
        return self._word.now.run.startswith(f"{run_id} ")

    def _board(self) -> Board | None:
        return None if group.board is self._dead else group.board

    def _ask(self, board: Board, call: Callable[[], _T]) -> _T | None:
        """Ask the board; None if it fails, as with the host that keeps it."""
        try:
            return call()
        except Exception as error:  # noqa: BLE001 - each kind of store raises its own
            logger.debug("the board of the ranks has failed", exc_info=error)
            self._dead = board
            return None


class RankEnds(Sink):
    """Told of the end of a stage after the other sinks."""

    def __init__(self, ranks: RankRuns) -> None:
        self._ranks = ranks

    def stage_closed(self, stage: StageInfo, end: StageEnd) -> None:
        self._ranks.stage_told(stage)

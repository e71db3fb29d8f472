"""Which of the open runs are at work, and which one is meant at a place of the program.

A line is a thread, or a task of asyncio, with the runs that it has begun. In each line one run is at work:

- the run that was entered last: the experiment tracker calls it active there;
- else the run that a client has begun, if the line has no other. Of two, nobody can know which is meant, so none
  is: their time belongs to no run until one is entered or only one is left.

A run nested in such a run takes its place, if it is the only one nested there. A run that a client begins beside
an active one is a side run: it belongs to no line. So do the runs of a line whose thread or task is over. A run
without a line is at work only if all open runs are without one, and it is the only one.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from carbon_otel.fork import renew_after_fork

if TYPE_CHECKING:
    from carbon_otel.stages.open_stage import OpenStage


class Run:
    """A run that has begun. Only `RunLines` changes it, except for `stage`.

    Attributes:
        above: the stage that was current where the run began.
        stage: its stage, from the time when it is first at work.
        outer: the open run that it is nested in.
        inner: the open runs that are nested in it.
    """

    __slots__ = ("above", "entered", "id", "inner", "line", "open", "outer", "stage")

    def __init__(self, run_id: str, outer: Run | None, line: _Line, above: OpenStage | None) -> None:
        self.id = run_id
        self.outer = outer
        self.inner: dict[Run, None] = {}
        self.line = line
        self.above = above
        self.entered = False
        self.open = True
        self.stage: OpenStage | None = None

    @property
    def at_work(self) -> bool:
        return self.open and self.line.chosen is self


class _Owner(weakref.ref[Any]):
    """A thread or task, held weakly, with its number.

    At its end Python calls a method of `deque` with this object. An exception that arrives in a function of Python
    would be ignored, and the end would be lost.
    """

    __slots__ = ("number",)

    number: int


class _Line:
    """`owner` is its thread or task, held weakly."""

    __slots__ = ("begun", "chosen", "entered", "owner")

    def __init__(self, owner: _Owner | None = None) -> None:
        self.owner = owner
        self.entered: dict[Run, None] = {}
        self.begun: dict[Run, None] = {}
        self.chosen: Run | None = None

    def choice(self) -> Run | None:
        run: Run | None
        if self.entered:
            run = next(reversed(self.entered))
        else:
            run = _only(each for each in self.begun if each.outer is None or each.outer.line is not self)
        nested = run
        while nested is not None:
            run = nested
            nested = _only(each for each in run.inner if each.line is self)
        return run

    def drop(self, run: Run) -> None:
        self.entered.pop(run, None)
        self.begun.pop(run, None)


class _Node(NamedTuple):
    """The runs that were begun or entered in one context, and their lines then, the last one first."""

    run: Run
    line: _Line
    before: _Node | None


class _Token:
    """Ends with its thread."""

    __slots__ = ("__weakref__",)


_here: Final[ContextVar[_Node | None]] = ContextVar("carbon_otel_run", default=None)
_thread: Final = threading.local()


class RunLines:
    """The runs of one measurement. Every change returns the runs for which something may have to be done."""

    def __init__(self, active_ids: Callable[[], Sequence[str]]) -> None:
        """`active_ids` returns the runs that the tracker calls active in this thread, the innermost first."""
        self._active_ids = active_ids
        self._runs: dict[str, Run] = {}
        self._lines: dict[int, _Line] = {}
        self._elsewhere = _Line()
        # The lines whose thread or task is over, until `bury`.
        self.over: deque[_Owner] = deque()
        self._lock = threading.RLock()
        renew_after_fork(self._renew)

    def _renew(self) -> None:
        """In a forked child: the thread that held the lock does not exist there."""
        self._lock = threading.RLock()

    def begin(
        self, run_id: str, outer_id: str | None, above: OpenStage | None, *, here: bool = True
    ) -> list[Run]:
        """A run has begun; `here`, if this line did that."""
        with self._lock:
            if run_id in self._runs:
                return []
            changed = self._bury()
            outer = self._runs.get(outer_id or "")
            active = self._entered_in_thread()
            if not here:
                line = self._elsewhere
            elif active is None:
                line = self._line_of(_task() or _token())
            else:
                nested = outer is not None and outer.line is active.line
                line = active.line if nested else self._elsewhere
            run = self._runs[run_id] = Run(run_id, outer, line, above)
            line.begun[run] = None
            if outer is not None:
                outer.inner[run] = None
            if here:
                _note(run)
            return changed + self._review(line)

    def enter(self, run_id: str) -> list[Run]:
        """The tracker makes a run active in this thread."""
        with self._lock:
            run = self._runs.get(run_id)
            if run is None:
                return []
            changed = self._bury()
            line, before = self._line_of(_token()), run.line
            active = set(self._active_ids())
            for other in [other for other in line.entered if other.id not in active]:
                # The tracker has left it without an end: the end has failed.
                del line.entered[other]
                other.entered = False
                line.begun[other] = None
            before.drop(run)
            run.line, run.entered = line, True
            line.entered[run] = None
            _note(run)
            return [*changed, *self._review(before), *self._review(line), run]

    def end(self, run_id: str) -> tuple[Run | None, list[Run]]:
        """A run has ended, in whatever way. Also returns it, if it was open."""
        with self._lock:
            run = self._runs.pop(run_id, None)
            if run is None:
                return None, []
            changed = self._bury()
            run.open, run.above = False, None
            run.line.drop(run)
            for each in run.inner:
                each.outer = run.outer
            if run.outer is not None:
                run.outer.inner.pop(run, None)
                run.outer.inner.update(run.inner)
            return run, changed + self._review(run.line)

    def is_entered(self, run_id: str) -> bool:
        """Whether the tracker calls the run active in a thread of this process."""
        with self._lock:
            run = self._runs.get(run_id)
            return run is not None and run.entered

    def begun_at_work(self) -> list[str]:
        """The runs at work that the tracker calls active in no thread."""
        with self._lock:
            return [run.id for run in self._runs.values() if run.at_work and not run.entered]

    def bury(self) -> list[Run]:
        """Look after the runs whose thread or task is over."""
        with self._lock:
            return self._bury()

    def active(self) -> Run | None:
        """The run that the tracker calls active in this thread."""
        for run_id in self._active_ids():
            run = self._runs.get(run_id)
            if run is not None:
                chosen = run.line.chosen
                # A run that a client has begun in it is at work instead.
                if chosen is run or chosen is None or chosen.entered or not run.entered:
                    return run
                return chosen
        return None

    def entered(self) -> OpenStage | Literal[False] | None:
        """The stage of the run that is meant in this context; False if there are several, and none is known."""
        node = _here.get()
        while node is not None:
            run, line, node = node
            # Another thread may have entered the run, which is then meant there.
            if run.line is line and self._runs.get(run.id) is run and line is not self._elsewhere:
                if run.entered:
                    return run.stage
                return (line.chosen is not None and line.chosen.stage) or False
        return None

    def _entered_in_thread(self) -> Run | None:
        return next((self._runs[run_id] for run_id in self._active_ids() if run_id in self._runs), None)

    def _line_of(self, owner: Any) -> _Line:
        number = id(owner)
        line = self._lines.get(number)
        if line is None:
            alive = _Owner(owner, self.over.append)
            alive.number = number
            line = self._lines[number] = _Line(alive)
        return line

    def _bury(self) -> list[Run]:
        changed: list[Run] = []
        while self.over:
            # Before another owner can have this number: every change begins with this.
            line = self._lines.pop(self.over.popleft().number)
            if line.chosen is not None:
                changed.append(line.chosen)
            for run in (*line.entered, *line.begun):
                run.line, run.entered = self._elsewhere, False
                self._elsewhere.begun[run] = None
            changed += self._review(self._elsewhere)
        return changed

    def _review(self, line: _Line) -> list[Run]:
        """Choose again in a line; the runs that this puts to work or to rest."""
        changed = self._choose(line, line.choice()) if line is not self._elsewhere else []
        alone = len(self._runs) == len(self._elsewhere.begun)
        return changed + self._choose(self._elsewhere, self._elsewhere.choice() if alone else None)

    @staticmethod
    def _choose(line: _Line, run: Run | None) -> list[Run]:
        before, line.chosen = line.chosen, run
        return [each for each in (before, run) if each is not None] if before is not run else []


def _note(run: Run) -> None:
    """Remember in this context that the run was begun or entered."""
    before = _here.get()
    while before is not None and (before.run is run or not before.run.open):
        before = before.before
    _here.set(_Node(run, run.line, before))


def _token() -> object:
    """An object that lives as long as this thread: the system gives the number of a thread again."""
    token: _Token | None = getattr(_thread, "token", None)
    if token is None:
        token = _thread.token = _Token()
    return token


def _task() -> object | None:
    """The task of asyncio that runs here."""
    asyncio: Any = sys.modules.get("asyncio")
    try:
        return asyncio.current_task() if asyncio is not None else None
    except RuntimeError:  # no event loop runs in this thread
        return None


def _only(runs: Iterable[Run]) -> Run | None:
    found: Iterator[Run] = iter(runs)
    first = next(found, None)
    return first if next(found, None) is None else None

"""Calls that are too short and too many for a stage each: they share what the stage around them pays, by time.

A call costs two readings of the clock. At ticks and edges, the joules that the surrounding stage has paid since
the last one are divided by the part of that time in which calls ran. All calls of one kind and name in a stage are
one child of it, which appears as soon as they have taken a hundredth of a second between two ticks; what is less
stays with the stage. A call of a quarter of a second or more is a child of its own, within limits (`budget.py`).

Only the outermost call in a thread counts. The division is modelled, the sum is not: what the calls get is taken
from the stage around them. Their energy is at least what the device must have drawn in them, had it drawn its most
power in the rest of the time, and at most what it can draw.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from carbon_otel import clock
from carbon_otel.fork import renew_after_fork
from carbon_otel.guard import contain
from carbon_otel.stages.arguments import Lifecycle
from carbon_otel.stages.budget import SpanBudget
from carbon_otel.stages.open_stage import OpenStage
from carbon_otel.stages.sums import Joules, together
from carbon_otel.units import NS_PER_S, S_PER_NS

if TYPE_CHECKING:
    from carbon_otel.stages.engine import Engine

# The file of the code around calls. `warnings` skips frames of files with these two words: `stacklevel` counts as
# without our frame.
FILE: Final = "<carbon_otel, skipped by warnings like importlib._bootstrap>"
_LEAST_NS: Final = NS_PER_S // 100
_LONG_NS: Final = NS_PER_S // 4
_now: Final = clock.monotonic_ns


@dataclass(frozen=True, eq=False)
class Share:
    """A call of a library, as a kind and a name that all its calls have."""

    kind: Lifecycle
    name: str


class Cell:
    """The calls of one kind in one stage and one thread. Only that thread writes, but for `taken_ns` and `told`.

    It is what is around a call: entering it starts the clock.
    """

    __slots__ = (
        "begun_ns",
        "calls",
        "done_ns",
        "fresh",
        "own",
        "parent",
        "share",
        "taken_ns",
        "thread",
        "told",
        "units",
    )

    def __init__(self, share: Share, parent: _Parent) -> None:
        self.share = share
        self.parent = parent
        self.thread = get_ident()
        self.begun_ns = 0  # of the call in progress
        self.done_ns = 0  # of all calls that have ended
        self.calls = 0
        self.units: dict[str, float] = {}
        self.fresh: Mapping[str, float] = {}  # the units of the call in progress
        self.taken_ns = 0
        self.told: dict[str, float] = {}
        # The stage of the call in progress, if it has one.
        self.own: OpenStage | None = None

    def __enter__(self) -> Callable[[Any], Any]:
        _here.inside = self
        self.begun_ns = _now()
        return _unseen

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        took_ns = _now() - self.begun_ns
        if took_ns < _LONG_NS and self.own is None and not self.fresh:
            self.calls += 1
        else:
            self._count(took_ns, error)
        self.done_ns += took_ns
        self.begun_ns = 0
        _here.inside = None

    def _count(self, took_ns: int, error: BaseException | None) -> None:
        long = took_ns >= _LONG_NS or self.own is not None
        if not long or not contain("ending a long call", False, self.parent.shares.end_long, self, error):
            self.calls += 1
            for unit, amount in self.fresh.items():
                self.units[unit] = self.units.get(unit, 0.0) + amount
        self.fresh = {}

    def untaken(self, now_ns: int) -> tuple[int, int]:
        """The time that has got no energy yet: of the call in progress, if it has a stage, and of the others.

        A call that ends meanwhile may be counted twice, until the next look.
        """
        begun_ns = self.begun_ns
        running_ns = max(0, now_ns - begun_ns) if begun_ns else 0
        all_ns = max(0, self.done_ns + running_ns - self.taken_ns)
        own_ns = min(all_ns, running_ns) if self.own is not None else 0
        return own_ns, all_ns - own_ns


def _unseen(result: Any) -> Any:
    return result


class _Here(threading.local):
    """The call in progress, and the cells by stage and call, of one thread. None where nothing is counted."""

    def __init__(self) -> None:
        self.inside: Cell | None = None
        self.cells: dict[OpenStage, dict[Share, Cell | None]] = {}


_here = _Here()


def _renew() -> None:
    """In a forked child: the cells belong to the stages of the parent process."""
    global _here
    _here = _Here()


renew_after_fork(_renew)


def cell_of(share: Share, stage: OpenStage) -> Cell | None:
    """The cell for a call in a stage that has one already; None else, and inside of another call.

    Raises KeyError if the stage has none for this call yet.
    """
    inside = _here.inside
    if inside is not None and inside.begun_ns:
        return None
    return _here.cells[stage][share]


@dataclass(eq=False)
class _Parent:
    """A stage with calls in it. `own_j` and `own_g` are what it had paid at `since_ns`."""

    shares: Shares
    stage: OpenStage
    since_ns: int
    own_j: Joules
    own_g: float
    cells: list[Cell] = field(default_factory=list)
    children: dict[Share, OpenStage] = field(default_factory=dict)
    # What calls without a child have used since the last tick.
    pending: dict[Share, _Part] = field(default_factory=dict)
    # Where its cells are to be found, by thread.
    found_in: list[dict[OpenStage, dict[Share, Cell | None]]] = field(default_factory=list)


class _Part(NamedTuple):
    """Joules, grams and seconds that calls have used."""

    joules: Joules
    grams: float
    ns: int
    least_j: Joules
    most_j: Joules


class Shares:
    """The stages of one measurement that have calls in them. Changed under the engine's lock, but for `live`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._budget = SpanBudget()
        self._most_w = [sensor.power_bounds_w[1] for sensor in engine.sensors]
        self.live: dict[OpenStage, _Parent] = {}

    def add(self, share: Share, stage: OpenStage, *, counts: bool) -> Cell | None:
        """The cell for calls in a stage from now on, on this thread; None if they are not to be counted."""
        parent = self.live.get(stage)
        if parent is None:
            parent = self._engine.at_edge(lambda now_ns: self._begin(stage, now_ns))
        if stage not in _here.cells:
            _here.cells[stage] = {}
            parent.found_in.append(_here.cells)
        cell = Cell(share, parent) if counts else None
        _here.cells[stage][share] = cell
        if cell is not None:
            parent.cells.append(cell)
        return cell

    def _begin(self, stage: OpenStage, now_ns: int) -> _Parent:
        own_j, own_g = self._engine.books.paid(stage.account)
        return self.live.setdefault(stage, _Parent(self, stage, now_ns, own_j, own_g))

    def settle(self, stage: OpenStage, now_ns: int) -> None:
        """Divide what a stage has paid since the last time, before that what it pays changes."""
        parent = self.live.get(stage)
        if parent is None:
            return
        books = self._engine.books
        own_j, own_g = books.paid(stage.account)
        gained_j = tuple([now - then for now, then in zip(own_j, parent.own_j, strict=True)])
        elapsed_ns, parent.since_ns = max(0, now_ns - parent.since_ns), now_ns
        parts = [(cell, *cell.untaken(now_ns)) for cell in parent.cells]
        whole_ns = max(elapsed_ns, sum([own_ns + ns for _, own_ns, ns in parts]))
        for cell, own_ns, ns in parts:
            cell.taken_ns += own_ns + ns
            for target, part_ns in (cell.own, own_ns), (parent.children.get(cell.share), ns):
                if part_ns:
                    part = self._part(gained_j, own_g - parent.own_g, part_ns, whole_ns, elapsed_ns)
                    if target is not None:
                        self._give(parent, target, part)
                    else:
                        _add(parent.pending, cell.share, part)
        parent.own_j, parent.own_g = books.paid(stage.account)

    def settle_all(self, now_ns: int) -> None:
        """The same for all stages at a tick. What has no child now stays with its stage."""
        for stage in list(self.live):
            self.settle(stage, now_ns)
            parent = self.live[stage]
            self._give_pending(parent)
            parent.pending.clear()

    def make_children(self) -> None:
        """Open the children that calls deserve. Called before each tick, without the lock."""
        if not self.live:
            return
        now_ns = self._engine.meter.clock_ns()
        for parent in list(self.live.values()):
            for cell in list(parent.cells):
                begun_ns = cell.begun_ns
                if begun_ns and cell.own is None and now_ns - begun_ns >= _LONG_NS:
                    if not _runs(cell.thread):  # an exception has broken it off before its first line
                        cell.begun_ns = 0
                    elif self._budget.allows(parent.stage.run or parent.stage, now_ns):
                        cell.own = self._open(parent, cell.share, begun_ns)
            self._make_children(parent, now_ns)

    def end_long(self, cell: Cell, error: BaseException | None) -> bool:
        """End a call that deserves a stage of its own; False if it has none."""
        engine, parent = self._engine, cell.parent
        if not engine.alive or not parent.stage.open:
            return False
        own = cell.own
        if own is None:
            if not self._budget.allows(parent.stage.run or parent.stage, engine.meter.clock_ns()):
                return False
            own = cell.own = self._open(parent, cell.share, cell.begun_ns)
        engine.at_edge(lambda now_ns: self.settle(parent.stage, now_ns))
        own.counted.update(cell.fresh)
        engine.close(own, error)
        cell.own = None
        return True

    def finish(self, stage: OpenStage) -> None:
        """End the children of a stage that is about to end. Called without the lock."""
        parent = self.live.get(stage)
        if parent is None:
            return
        engine = self._engine
        engine.at_edge(lambda now_ns: self.settle(stage, now_ns))
        self._make_children(parent, engine.meter.clock_ns())
        engine.at_edge(lambda now_ns: self._last(parent, now_ns))
        for child in [
            *parent.children.values(),
            *(cell.own for cell in parent.cells if cell.own is not None),
        ]:
            engine.close(child)
        self.live.pop(stage, None)
        for cells in parent.found_in:
            cells.pop(stage, None)

    def _last(self, parent: _Parent, now_ns: int) -> None:
        self.settle(parent.stage, now_ns)
        self._give_pending(parent)

    def _make_children(self, parent: _Parent, now_ns: int) -> None:
        waiting: dict[Share, int] = {}
        for cell in parent.cells:
            if cell.share not in parent.children:
                before = waiting.get(cell.share, 0)
                waiting[cell.share] = before + cell.untaken(now_ns)[1]
        for share, part in parent.pending.items():
            waiting[share] = waiting.get(share, 0) + part.ns
        for share, ns in waiting.items():
            if ns >= _LEAST_NS and share not in parent.children:
                parent.children[share] = self._open(parent, share, now_ns - ns)

    def _open(self, parent: _Parent, share: Share, begun_ns: int) -> OpenStage:
        engine = self._engine
        stage = engine.prepare_part(parent.stage, share.kind, share.name, begun_ns)
        engine.begin(stage)
        return stage

    def _part(self, gained_j: Joules, gained_g: float, ns: int, whole_ns: int, elapsed_ns: int) -> _Part:
        """What calls that ran for `ns` of `whole_ns` get of what their stage has paid in `elapsed_ns`."""
        ratio = ns / whole_ns
        busy_s, idle_s = ratio * elapsed_ns * S_PER_NS, (1 - ratio) * elapsed_ns * S_PER_NS
        # In proportion to the process's share, as the joules are.
        most_w = [
            most * track.share for most, track in zip(self._most_w, self._engine.meter.tracks, strict=True)
        ]
        bounds = list(zip(gained_j, most_w, strict=True))
        return _Part(
            tuple([joules * ratio for joules in gained_j]),
            gained_g * ratio,
            ns,
            tuple([min(joules * ratio, max(0.0, joules - most * idle_s)) for joules, most in bounds]),
            tuple([max(joules * ratio, min(joules, most * busy_s)) for joules, most in bounds]),
        )

    def _give_pending(self, parent: _Parent) -> None:
        for share in list(parent.pending):
            if share in parent.children:
                self._give(parent, parent.children[share], parent.pending.pop(share))
        for cell in parent.cells:
            child = parent.children.get(cell.share)
            if child is not None:
                _tell(cell, child)
        parent.own_j, parent.own_g = self._engine.books.paid(parent.stage.account)

    def _give(self, parent: _Parent, child: OpenStage, part: _Part) -> None:
        if child.split is None or not child.open:
            return
        self._engine.books.transfer(parent.stage.account, child.account, part.joules, part.grams)
        child.split = child.split.plus(part.ns * S_PER_NS, part.least_j, part.most_j)


def _add(pending: dict[Share, _Part], share: Share, part: _Part) -> None:
    before = pending.get(share)
    if before is not None:
        part = _Part(
            together(before.joules, part.joules),
            before.grams + part.grams,
            before.ns + part.ns,
            together(before.least_j, part.least_j),
            together(before.most_j, part.most_j),
        )
    pending[share] = part


def _tell(cell: Cell, child: OpenStage) -> None:
    """Add to the child's units what calls have counted since the last time."""
    now: Mapping[str, float] = {"calls": cell.calls, **cell.units}
    for unit, amount in now.items():
        child.counted[unit] = child.counted.get(unit, 0.0) + amount - cell.told.get(unit, 0.0)
    cell.told = dict(now)


def _runs(thread: int) -> bool:
    """Whether a function that was changed in place runs in a thread."""
    frame = sys._current_frames().get(thread)  # noqa: SLF001 - documented, in spite of its name
    while frame is not None:
        if frame.f_code.co_filename == FILE:
            return True
        frame = frame.f_back
    return False

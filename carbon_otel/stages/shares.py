"""Calls that are too short and too many for a stage each: they share what the stage around them pays, by time.

A call costs two readings of the clock. At ticks and edges, the joules that the surrounding stage has paid since
the last one are divided by the part of that time in which calls ran. All calls of one kind and name in a stage are
one child of it, which appears as soon as they have taken a hundredth of a second between two ticks; what is less
stays with the stage. A call of a quarter of a second or more is a child of its own, if the run has an allowance.

Only the outermost call in a thread counts. The division is modelled, the sum is not: what the calls get is taken
from the stage around them. Their energy is at least what the device must have drawn in them, had it drawn its most
power in the rest of the time, and at most what it can draw.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import get_ident
from typing import TYPE_CHECKING, Final, Protocol

from carbon_otel.meter.meter import NO_EDGE
from carbon_otel.stages.cells import Cell, Share, cells_here
from carbon_otel.stages.open_stage import CALLS, OpenStage
from carbon_otel.stages.parts import Interval, Part, Receiver
from carbon_otel.stages.preparing import prepare_part
from carbon_otel.stages.sums import Paid, less, together
from carbon_otel.units import NS_PER_S, S_PER_NS

if TYPE_CHECKING:
    from carbon_otel.stages.engine import Engine

# The child of calls outside of any stage ends after so long, and the next one begins: the process may never end.
_CHILD_NS: Final = 60 * NS_PER_S
# So long may the last division be ago where a loop begins.
_FRESH_NS: Final = NS_PER_S // 100
# As many cells are looked through at each tick; beyond, those of threads that have ended are dropped.
_MANY: Final = 100


class Timed(Protocol):
    """Something that takes a part of the time of a stage."""

    def held_back(self) -> Sequence[Part]:
        """What the stage has paid, and of which it may turn out that it belongs to this."""

    def untaken(self, now_ns: int) -> list[tuple[Receiver, int]]:
        """The nanoseconds that have got no energy yet, and who gets it."""

    def take(self, receiver: Receiver, ns: int) -> None:
        """These nanoseconds have got their energy."""

    def look(self, now_ns: int) -> None:
        """Called before each tick, without the lock."""

    def finish(self) -> None:
        """The stage around it ends."""


@dataclass(eq=False)
class Parent:
    """A stage with calls in it.

    `base` is what it had paid when its parts were made last, and when that was: one tuple, since an exception may
    arrive between two assignments. A part may then stay with the stage, but is never given twice.
    """

    shares: Shares
    stage: OpenStage
    base: tuple[int, Paid]
    ending: bool = False
    timed: list[Timed] = field(default_factory=list)
    receivers: dict[Share, Receiver] = field(default_factory=dict)
    # Where its cells are to be found, by thread.
    found_in: list[tuple[int, dict[OpenStage, dict[Share, Cell | None]]]] = field(default_factory=list)
    epochs: int = 0
    # The cells in which a call is in progress, since when there has been one, and how much of the time in which
    # there was one has got its energy. Threads write without a lock: what is lost then is the time of one call.
    inside: set[Cell] = field(default_factory=set)
    inside_since_ns: int = 0
    covered_ns: int = 0

    def others(self, share: Share) -> Receiver:
        """The receiver of what has no stage of its own."""
        return self.receivers.setdefault(share, Receiver())


class Shares:
    """The stages of one measurement that have calls in them. Changed under the engine's lock, but for `live`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._most_w = [sensor.power_bounds_w[1] for sensor in engine.sensors]
        self.live: dict[OpenStage, Parent] = {}
        # Whether a loop of this process has trained.
        self.trained = False

    def add(self, share: Share, stage: OpenStage, *, counts: bool) -> Cell | None:
        """The cell for calls in a stage from now on, on this thread; None if they are not to be counted."""
        parent = self.parent(stage)
        here = cells_here()
        if stage not in here:
            here[stage] = {}
            parent.found_in.append((get_ident(), here))
        cell = Cell(share, parent) if counts else None
        here[stage][share] = cell
        if cell is not None:
            parent.receivers.setdefault(share, Receiver())
            parent.timed.append(cell)
        return cell

    def parent(self, stage: OpenStage) -> Parent:
        """A stage that calls are in from now on."""
        known = self.live.get(stage)
        return known or self.engine.at_moment(lambda now_ns: self._begin(stage, now_ns))

    def divided(self, stage: OpenStage) -> Parent:
        """The same, where something begins that may draw another power: what it has paid until now is divided."""
        known = self.live.get(stage)
        if known is None:
            return self.parent(stage)
        if self.engine.meter.clock_ns() - known.base[0] >= _FRESH_NS:
            self._divide(stage)
        return known

    def _divide(self, stage: OpenStage) -> None:
        """Divide what a stage has paid until now; in the middle of a call of the engine, right after that."""

        def divide() -> None:
            self.engine.at_edge(lambda now_ns: self.settle(stage, now_ns))

        if not self.engine.put_off(divide):
            divide()

    def _begin(self, stage: OpenStage, now_ns: int) -> Parent:
        base = (now_ns, self.engine.books.paid(stage.account))
        return self.live.setdefault(stage, Parent(self, stage, base))

    def are_busy(self, stage: OpenStage) -> bool:
        """Whether a loop or a call in a stage is under way."""
        parent = self.live.get(stage)
        timed = () if parent is None else tuple(parent.timed)
        return any(not isinstance(each, Cell) or each.begun_ns for each in timed)

    def epochs_in(self, stage: OpenStage) -> int:
        """How many epochs there have been in a stage."""
        return self.live[stage].epochs if stage in self.live else 0

    def go_on(self, epochs: int, stage: OpenStage) -> None:
        """The next epoch in a stage comes after so many others."""
        if epochs:
            self.parent(stage).epochs = epochs

    def settle(self, stage: OpenStage, now_ns: int) -> None:
        """Divide what a stage has paid since the last time, before that what it pays changes."""
        parent = self.live.get(stage)
        if parent is None:
            return
        since_ns, before = parent.base
        own = self.engine.books.paid(stage.account)
        parent.base = now_ns, own
        untaken = [(timed, *each) for timed in list(parent.timed) for each in timed.untaken(now_ns)]
        tracks = self.engine.meter.tracks
        elapsed_ns = max(0, now_ns - since_ns)
        joules, grams, embodied_g = less(own, before)
        interval = Interval(
            (tuple([max(0.0, each) for each in joules]), max(0.0, grams), max(0.0, embodied_g)),
            elapsed_ns,
            _whole_ns(parent, untaken, elapsed_ns, now_ns),
            [most * track.share for most, track in zip(self._most_w, tracks, strict=True)],
        )
        for timed, receiver, ns in untaken:
            if ns:
                timed.take(receiver, ns)
                receiver.keep(interval.part(ns))
                self.give(parent, receiver)

    def settle_all(self, now_ns: int) -> None:
        """The same for all stages at a tick. What calls without a child have used stays with their stage."""
        for stage, parent in list(self.live.items()):
            self.settle(stage, now_ns)
            self._count(parent)
            for receiver in list(parent.receivers.values()):
                self.give(parent, receiver)
                receiver.kept = None

    def make_children(self) -> None:
        """Open the children that calls deserve. Called before each tick, without the lock."""
        for parent in [each for each in self.live.values() if not each.ending]:
            now_ns = self.engine.meter.clock_ns()
            for timed in list(parent.timed):
                timed.look(now_ns)
            if parent.stage is self.engine.root:
                self._end_old_children(parent, now_ns)
            self._make_children(parent, now_ns)
            if len(parent.timed) > _MANY:
                _forget_dead_threads(parent, now_ns)

    def _end_old_children(self, parent: Parent, now_ns: int) -> None:
        for share, receiver in list(parent.receivers.items()):
            child = receiver.stage
            if child is not None and now_ns - child.opened_ns >= _CHILD_NS:
                self.engine.at_edge(functools.partial(self._let_go, parent, share, receiver))
                self.engine.close(child)

    def _let_go(self, parent: Parent, share: Share, receiver: Receiver, now_ns: int) -> None:
        """Give a child what it has got so far; what follows is for the next one."""
        self.settle(parent.stage, now_ns)
        self.give(parent, receiver)
        self._count(parent)
        parent.receivers[share] = Receiver()

    def end_long(self, cell: Cell, took_ns: int, error: BaseException | None) -> bool:
        """End a call that deserves a stage of its own; False if it has none."""
        engine, parent = self.engine, cell.parent
        if not engine.alive or not parent.stage.open:
            return False
        own = cell.own.stage or self.open_own(cell)
        if own is None:
            return False
        self._divide(parent.stage)
        # Stopped first: a tick in a signal handler gives a call in progress another stage.
        cell.stop(took_ns)
        own.count(cell.fresh)
        engine.close(own, error)
        cell.own = Receiver()
        return True

    def open_own(self, cell: Cell) -> OpenStage | None:
        """Open the stage of a long call in progress, if it may have one."""
        parent = cell.parent
        if parent.stage.affords_stage():
            self.open(cell.own, parent.stage, cell.share, cell.begun_ns)
        return cell.own.stage

    def finish(self, stage: OpenStage) -> None:
        """End the children of a stage that is about to end. Called without the lock."""
        parent = self.live.get(stage)
        if parent is None:
            return
        engine, parent.ending = self.engine, True
        for timed in list(parent.timed):
            timed.finish()
        self._divide(stage)
        self._make_children(parent, engine.meter.clock_ns())
        engine.at_edge(lambda now_ns: self._last(parent, now_ns))
        cells = [timed for timed in list(parent.timed) if isinstance(timed, Cell)]
        for receiver in [*parent.receivers.values(), *(cell.own for cell in cells)]:
            if receiver.stage is not None:
                engine.close(receiver.stage)
        for cell in cells:
            if cell.begun_ns:
                cell.forget()
        self.live.pop(stage, None)
        for _, found in list(parent.found_in):
            found.pop(stage, None)

    def _last(self, parent: Parent, now_ns: int) -> None:
        self.settle(parent.stage, now_ns)
        for receiver in list(parent.receivers.values()):
            self.give(parent, receiver)
        self._count(parent)

    def _make_children(self, parent: Parent, now_ns: int) -> None:
        waiting = dict.fromkeys(list(parent.receivers.values()), 0)
        for timed in list(parent.timed):
            for receiver, ns in timed.untaken(now_ns):
                if receiver in waiting:
                    waiting[receiver] += ns
        for share, receiver in list(parent.receivers.items()):
            kept = receiver.kept
            ns = waiting.get(receiver, 0) + (kept.ns if kept is not None else 0)
            if receiver.stage is None and ns >= share.least_ns:
                self.open(receiver, parent.stage, share, now_ns - ns)

    def open(self, receiver: Receiver, whole: OpenStage, share: Share, begun_ns: int) -> None:
        """Open the receiver's stage, a child of `whole`, which began at this time.

        The receiver knows it before: if an exception keeps it from opening, it ends with the stage that pays.
        """
        if not receiver.claim():
            return
        stage = prepare_part(self.engine, whole, share.kind, share.name, begun_ns)
        receiver.opened(stage)
        self.engine.begin(stage)

    def held_back(self, stage: OpenStage) -> Paid | None:
        """What the stage has paid and may turn out to be a child's."""
        parent = self.live.get(stage)
        parts = [] if parent is None else [part for timed in list(parent.timed) for part in timed.held_back()]
        return functools.reduce(together, [part.paid for part in parts]) if parts else None

    def give(self, parent: Parent, receiver: Receiver) -> None:
        """Let the receiver's stage have paid what was kept for it."""
        part, child = receiver.kept, receiver.stage
        if part is None or child is None or not child.open or child.begin is NO_EDGE:
            return
        receiver.kept = None
        source = parent.stage.account
        between = receiver.above.stage if receiver.above is not None else None
        for target in (child,) if between is None else (between, child):
            self.engine.books.transfer(source, target.account, *part.paid)
            if target.split is not None:
                target.split = target.split.plus(part.ns * S_PER_NS, part.least_j, part.most_j)
            source = target.account
        parent.base = (parent.base[0], self.engine.books.paid(parent.stage.account))

    def _count(self, parent: Parent) -> None:
        for cell in list(parent.timed):
            if isinstance(cell, Cell):
                child = parent.receivers[cell.share].stage
                if child is not None:
                    _tell(cell, child)


def _whole_ns(
    parent: Parent, untaken: list[tuple[Timed, Receiver, int]], elapsed_ns: int, now_ns: int
) -> float:
    """The nanoseconds that stand for all that was paid in some time: with those of calls, their parts follow.

    It is that time, if there was never more than one of them at once. Calls at once, in several threads, have
    together what one of them would have had.
    """
    covered_ns = sum([each.covered_ns for each in list(parent.timed) if isinstance(each, Cell)])
    if parent.inside:
        covered_ns += max(0, now_ns - parent.inside_since_ns)
    covered_ns, parent.covered_ns = covered_ns - parent.covered_ns, covered_ns
    calls = [ns for timed, _, ns in untaken if isinstance(timed, Cell)]
    covered_ns = min(max(covered_ns, max(calls, default=0)), sum(calls))
    all_ns = sum([ns for _, _, ns in untaken])
    busy_ns = min(elapsed_ns, all_ns - sum(calls) + covered_ns)
    return elapsed_ns * all_ns / busy_ns if busy_ns else max(elapsed_ns, all_ns)


def _forget_dead_threads(parent: Parent, now_ns: int) -> None:
    alive = set(sys._current_frames())  # noqa: SLF001 - documented, in spite of its name
    for timed in list(parent.timed):
        if (
            isinstance(timed, Cell)
            and timed.thread not in alive
            and not any(n for _, n in timed.untaken(now_ns))
        ):
            child = parent.receivers[timed.share].stage
            if child is not None:
                _tell(timed, child)
            parent.timed.remove(timed)
            parent.covered_ns -= timed.covered_ns
    for each in list(parent.found_in):
        if each[0] not in alive:
            parent.found_in.remove(each)


def _tell(cell: Cell, child: OpenStage) -> None:
    """Add to the child's units what calls have counted since the last time."""
    now: Mapping[str, float] = {CALLS: cell.calls, **cell.units}
    child.count({unit: amount - cell.told.get(unit, 0.0) for unit, amount in now.items()})
    cell.told = dict(now)

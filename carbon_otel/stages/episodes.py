"""Passes of a loop over data, whose kind only shows while they run: an epoch, an evaluation, a batch of inference.

An episode begins and ends with the iterator of the loop. If an optimizer steps in it, it is training; else it is
evaluation in a process that has trained before, and inference in another. Until that is known, what it uses is
kept, and the sinks are not told of the stage around it. Waiting for data is a child of it, as data processing.

Episodes in one thread that take turns (`zip` of two loops) are one; an episode that begins and ends within another
one is beside it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from carbon_otel import clock
from carbon_otel.fork import renew_after_fork
from carbon_otel.stages.arguments import Lifecycle
from carbon_otel.stages.cells import Share
from carbon_otel.stages.parts import Receiver
from carbon_otel.stages.shares import Parent
from carbon_otel.units import NS_PER_S

if TYPE_CHECKING:
    from carbon_otel.stages.engine import Engine
    from carbon_otel.stages.open_stage import OpenStage

_now: Final = clock.monotonic_ns
_LEAST_NS: Final = NS_PER_S // 100
# An episode without a step for so long is no training.
_UNDECIDED_NS: Final = 60 * NS_PER_S
_WAITING: Final = Share("data_processing", "DataLoader")
# Those that have no span each.
_TOGETHER: Final[Mapping[Lifecycle, Share]] = {
    "training": Share("training", "epochs"),
    "evaluation": Share("evaluation", "evaluation"),
    "inference": Share("inference", "inference"),
}


class Episode:
    """One pass. Only its own thread writes, but for what was taken and the receivers."""

    __slots__ = (
        "_begun_ns",
        "_decided",
        "_done_ns",
        "_first_ns",
        "_hooked",
        "_other_ns",
        "_wait_begun_ns",
        "_wait_ns",
        "_wait_taken_ns",
        "batches",
        "ended",
        "into",
        "main",
        "parent",
        "samples",
        "steps",
        "taken_ns",
        "trains",
        "wait",
    )

    def __init__(self, parent: Parent, begun_ns: int) -> None:
        self.parent = parent
        self.taken_ns = 0
        self.main, self.wait = Receiver(), Receiver()
        self.wait.above = self.main
        self.trains = self.ended = False
        self.batches = self.steps = self.samples = 0
        # The episode that this one takes turns with.
        self.into: Episode | None = None
        self._first_ns = self._begun_ns = begun_ns
        self._done_ns = self._other_ns = 0
        self._wait_begun_ns = self._wait_ns = self._wait_taken_ns = 0
        self._hooked = self._decided = False

    # Called on the thread of the loop.

    def begin_wait(self) -> None:
        """The loop asks for its next batch."""
        if self._hooked:
            self.steps, self._hooked = self.steps + 1, False
        self._wait_begun_ns = _now()

    def end_wait(self) -> None:
        self._wait_ns += _now() - self._wait_begun_ns
        self._wait_begun_ns = 0

    def stepped(self) -> None:
        """An optimizer has stepped. Several steps in one batch count as one."""
        self.trains = self._hooked = self.parent.shares.trained = True

    def pause(self) -> None:
        """An episode begins in this one."""
        if self._begun_ns:
            self._done_ns, self._begun_ns = self._done_ns + _now() - self._begun_ns, 0

    def resume(self) -> None:
        if not self._begun_ns and not self.ended:
            self._begun_ns = _now()

    def elsewhere(self, ns: int) -> None:
        """A short call in it has its own part."""
        self._other_ns += ns

    def end(self) -> None:
        """The loop is over. Nothing happens the second time."""
        if self.ended:
            return
        self.pause()
        if self._wait_begun_ns:
            self.end_wait()
        if self._hooked:
            self.steps, self._hooked = self.steps + 1, False
        self.ended = True
        if not self.parent.shares.engine.put_off(self._close):  # the iterator may go in the middle of a call
            self._close()

    # `Timed`.

    def untaken(self, now_ns: int) -> list[tuple[Receiver, int]]:
        begun_ns, wait_begun_ns = self._begun_ns, self._wait_begun_ns
        running_ns = max(0, now_ns - begun_ns) if begun_ns else 0
        all_ns = max(0, self._done_ns + running_ns - self._other_ns - self.taken_ns)
        waited_ns = self._wait_ns + (max(0, now_ns - wait_begun_ns) if wait_begun_ns else 0)
        wait_ns = 0
        if self.wait.stage is not None or self.main.stage is None:
            wait_ns = min(all_ns, max(0, waited_ns - self._wait_taken_ns))
        return [(self.main, all_ns - wait_ns), (self.wait, wait_ns)]

    def take(self, receiver: Receiver, ns: int) -> None:
        self.taken_ns += ns
        if receiver is self.wait:
            self._wait_taken_ns += ns

    @property
    def undecided(self) -> bool:
        return not self._decided

    def look(self, now_ns: int) -> None:
        """Before a tick: open its stage when its kind is known, and that of the waiting when it counts."""
        if not self._decided and (self.trains or now_ns - self._first_ns >= _UNDECIDED_NS):
            self._open()
        elif self.main.stage is not None and self.wait.stage is None:
            self._open_wait(self.main.stage)

    def finish(self) -> None:
        """The stage around it ends."""
        self.end()

    def _open(self) -> None:
        parent = self.parent
        kind = self._kind()
        if kind == "training":
            parent.epochs += 1
        if parent.stage.affords_stage():
            name = f"epoch {parent.epochs}" if kind == "training" else kind
            parent.shares.open(self.main, parent.stage, Share(kind, name), self._first_ns)
            if self.main.stage is not None:
                self._open_wait(self.main.stage)
        self._decided = True

    def _kind(self) -> Lifecycle:
        return "training" if self.trains else "evaluation" if self.parent.shares.trained else "inference"

    def _open_wait(self, whole: OpenStage) -> None:
        if self._wait_ns >= _LEAST_NS:
            self.parent.shares.open(self.wait, whole, _WAITING, self._first_ns)

    def _close(self) -> None:
        parent, engine = self.parent, self.parent.shares.engine
        if not engine.alive:
            return
        if not self._decided:
            self._open()
        receiver = self.main
        if self.main.stage is None:
            receiver = parent.others(_TOGETHER[self._kind()])
        engine.at_edge(lambda now_ns: self._settle(receiver, now_ns))
        for each in self.wait, self.main:
            if each.stage is not None:
                engine.close(each.stage)

    def _settle(self, receiver: Receiver, now_ns: int) -> None:
        parent, shares = self.parent, self.parent.shares
        shares.settle(parent.stage, now_ns)
        if receiver is not self.main:
            receiver.adopt(self.main)
        if self.wait.stage is None:
            receiver.adopt(self.wait)
        receiver.count(self._units())
        for each in receiver, self.wait:
            shares.give(parent, each)
        if self in parent.timed:
            parent.timed.remove(self)

    def _units(self) -> Mapping[str, float]:
        units = {
            "batches": self.batches,
            "steps": self.steps,
            "samples": self.samples,
            "epochs": int(self.trains),
        }
        return {unit: amount for unit, amount in units.items() if amount}


class _Loops(threading.local):
    """The open episodes of a thread, the innermost last, and those of its iterators."""

    def __init__(self) -> None:
        self.stack: list[Episode] = []
        self.depth = 0


_here = _Loops()


def _renew() -> None:
    """In a forked child: the loops of the parent process go on there, if at all, without a measurement."""
    global _here
    _here = _Loops()


renew_after_fork(_renew)


def begin(engine: Engine, stage: OpenStage, begun_ns: int) -> Episode:
    """An episode begins in this stage, on this thread."""
    episode = Episode(engine.shares.parent(stage), begun_ns)
    episode.parent.timed.append(episode)
    stack = _here.stack
    if stack:
        stack[-1].pause()
    stack.append(episode)
    return episode


def turn_to(episode: Episode) -> Episode:
    """The loop of this episode asks for data: those that began in it, and are still open, take turns with it."""
    while episode.into is not None:
        episode = episode.into
    stack = _here.stack
    if stack and stack[-1] is not episode and episode in stack:
        while stack[-1] is not episode:
            inner = stack.pop()
            inner.into = episode
            episode.trains |= inner.trains
            inner.end()
        episode.resume()
    return episode


def end(episode: Episode) -> None:
    """The loop is over: also after a `break`, or an exception."""
    stack = _here.stack
    if episode in stack:
        innermost = stack[-1] is episode
        stack.remove(episode)
        if innermost and stack:
            stack[-1].resume()
    if episode.into is None:
        episode.end()


def enter_step() -> None:
    """An optimizer begins its step; one may call another."""
    _here.depth += 1


def leave_step() -> None:
    """The step is done: it counts if no other one is around it."""
    _here.depth -= 1
    if _here.depth <= 0:
        _here.depth = 0
        if _here.stack:
            _here.stack[-1].stepped()

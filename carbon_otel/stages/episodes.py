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
from carbon_otel.stages.cells import Share, note_loop
from carbon_otel.stages.parts import Receiver
from carbon_otel.stages.shares import Parent
from carbon_otel.units import NS_PER_S

if TYPE_CHECKING:
    from carbon_otel.stages.engine import Engine
    from carbon_otel.stages.open_stage import OpenStage

_now: Final = clock.monotonic_ns
_LEAST_NS: Final = NS_PER_S // 100
# An episode without a step for so long is no training; the first step of a process may wait for a compiler.
_UNDECIDED_NS: Final = 60 * NS_PER_S
_FIRST_STEP_NS: Final = 600 * NS_PER_S
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
        "_together",
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
        "tokens",
        "trains",
        "wait",
    )

    def __init__(self, parent: Parent, begun_ns: int) -> None:
        self.parent = parent
        self.taken_ns = 0
        self.main, self.wait = Receiver(), Receiver()
        self.wait.above = self.main
        self.trains = self.ended = False
        self.batches = self.steps = self.samples = self.tokens = 0
        # The episode that this one takes turns with.
        self.into: Episode | None = None
        self._first_ns = self._begun_ns = begun_ns
        self._done_ns = self._other_ns = 0
        self._wait_begun_ns = self._wait_ns = self._wait_taken_ns = 0
        # Whether it has no stage of its own, but one with others.
        self._together = False
        self._hooked = self._decided = False

    # Called on the thread of the loop.

    def begin_wait(self) -> bool:
        """The loop asks for its next batch; False if it waits already: in the loading of data is another loop."""
        if self._wait_begun_ns:
            return False
        if self._hooked:
            self.steps, self._hooked = self.steps + 1, False
        self._wait_begun_ns = _now()
        return True

    def end_wait(self) -> None:
        begun_ns, self._wait_begun_ns = self._wait_begun_ns, 0
        if begun_ns:
            self._wait_ns += _now() - begun_ns

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

    def elsewhere(self, parent: Parent, ns: int) -> None:
        """A short call has ended in this thread; in the same stage, it has its own part."""
        if parent is self.parent:
            self._other_ns += ns
            if self._wait_begun_ns:
                self._wait_ns -= ns

    def absorb(self, inner: Episode) -> None:
        """An episode that began in this one takes turns with it: they are one."""
        inner.into = self
        if inner.trains:
            self.stepped()
        if inner._decided:
            inner.end()
            return
        inner.pause()
        inner.ended = inner._decided = True
        for ours, theirs in (self.main, inner.main), (self.main, inner.wait):
            ours.adopt(theirs)
        if inner in inner.parent.timed:
            inner.parent.timed.remove(inner)

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
        if not self._together and (self.wait.stage is not None or self.main.stage is None):
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
        patience_ns = _UNDECIDED_NS if self.parent.shares.trained else _FIRST_STEP_NS
        if not self._decided and (self.trains or now_ns - self._first_ns >= patience_ns):
            self._open()
        elif self.main.stage is not None and self.wait.stage is None and not self._together:
            self._open_wait(self.main.stage)

    def finish(self) -> None:
        """The stage around it ends."""
        self.end()

    def _open(self) -> None:
        parent = self.parent
        kind = self._kind()
        if kind == "training":
            parent.epochs += 1
        if not parent.stage.affords_stage():
            together = parent.others(_TOGETHER[kind])
            together.adopt(self.main)
            together.adopt(self.wait)
            self.main, self._together = together, True
        else:
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
        engine = self.parent.shares.engine
        if not engine.alive:
            return
        if not self._decided:
            self._open()
        engine.at_edge(self._settle)
        if not self._together:
            for each in self.wait, self.main:
                if each.stage is not None:
                    engine.close(each.stage)

    def _settle(self, now_ns: int) -> None:
        parent, shares = self.parent, self.parent.shares
        shares.settle(parent.stage, now_ns)
        if self.wait.stage is None:
            self.main.adopt(self.wait)
        self.main.count(self._units())
        for each in self.main, self.wait:
            shares.give(parent, each)
        if self in parent.timed:
            parent.timed.remove(self)

    def _units(self) -> Mapping[str, float]:
        units = {
            "batches": self.batches,
            "steps": self.steps,
            "samples": self.samples,
            "tokens": self.tokens,
            "epochs": int(self.trains),
        }
        return {unit: amount for unit, amount in units.items() if amount}


class _Loops(threading.local):
    """The open episodes of a thread, the innermost last, and those of its iterators."""

    def __init__(self) -> None:
        self.stack: list[Episode] = []


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
    note_loop(episode)
    return episode


def turn_to(episode: Episode) -> Episode:
    """The loop of this episode asks for data: those that began in it, and are still open, take turns with it."""
    while episode.into is not None and not episode.into.ended:
        episode = episode.into
    stack = _here.stack
    if stack and stack[-1] is not episode and episode in stack:
        while stack[-1] is not episode:
            episode.absorb(stack.pop())
        episode.resume()
        note_loop(episode)
    return episode


def end(episode: Episode) -> None:
    """The loop is over: also after a `break`, or an exception."""
    stack = _here.stack
    if episode in stack:
        innermost = stack[-1] is episode
        stack.remove(episode)
        if innermost and stack:
            stack[-1].resume()
        note_loop(stack[-1] if stack else None)
    if episode.into is None:
        episode.end()


def stepped() -> None:
    """An optimizer begins a step in this thread. All steps between two batches count as one."""
    if _here.stack:
        _here.stack[-1].stepped()

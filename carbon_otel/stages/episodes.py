"""Passes of a loop over data, whose kind only shows while they run: an epoch, an evaluation, a batch of inference.

An episode begins and ends with the iterator of the loop. If an optimizer steps in it, it is training; else it is
evaluation in a process that has trained before, and inference in another. Until that is known, what it uses is
kept, and the sinks are not told of the stage around it. Waiting for data is a child of it, as data processing.

Episodes in one thread that take turns (`zip` of two loops) are one, until the last of their iterators has gone; an
episode that begins and ends within another one is beside it. If the end of a loop is not seen, the episode ends
when it was last seen; what the stage around it has paid since then is kept, too, until it is seen again or over.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextvars import copy_context
from typing import TYPE_CHECKING, Final

from carbon_otel import clock
from carbon_otel.fork import renew_after_fork
from carbon_otel.stages.arguments import Lifecycle
from carbon_otel.stages.cells import Share, note_loop
from carbon_otel.stages.parts import Part, Receiver
from carbon_otel.stages.running import Running
from carbon_otel.stages.shares import Parent
from carbon_otel.units import NS_PER_S

if TYPE_CHECKING:
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
        "_context",
        "_decided",
        "_first_ns",
        "_guessed_ns",
        "_inner_held",
        "_together",
        "_wait_begun_ns",
        "_wait_ns",
        "_wait_taken_ns",
        "batches",
        "ended",
        "guess",
        "held",
        "hooked",
        "into",
        "iterators",
        "main",
        "parent",
        "running",
        "samples",
        "steps",
        "taken_ns",
        "tokens",
        "trains",
        "wait",
    )

    def __init__(self, parent: Parent, begun_ns: int, held: Callable[[], bool] | None = None) -> None:
        """`held` tells whether the loop still has its iterator; without it, the end of that is seen."""
        self.parent = parent
        self.running = Running(begun_ns, fades=held is not None)
        self.held = held
        self._context = copy_context()
        self.taken_ns = 0
        self.main, self.wait = Receiver(), Receiver()
        self.wait.above = self.main
        # For what belongs to it if it is seen again.
        self.guess = Receiver()
        self._guessed_ns = 0
        self.trains = self.ended = False
        self.batches = self.steps = self.samples = self.tokens = 0
        # The episode that this one takes turns with, and how many iterators take turns in this one.
        self.into: Episode | None = None
        self.iterators = 1
        self._inner_held: Callable[[], bool] | None = None
        self._first_ns = begun_ns
        self._wait_begun_ns = self._wait_ns = self._wait_taken_ns = 0
        # Whether it has no stage of its own, but one with others.
        self._together = False
        # Whether an optimizer has stepped since the last batch.
        self.hooked = False
        self._decided = False

    def begin_wait(self) -> bool:
        """The loop asks for its next batch; False if it waits already: in the loading of data is another loop."""
        if self._wait_begun_ns:
            return False
        if self.hooked:
            self.steps, self.hooked = self.steps + 1, False
        self._wait_begun_ns = _now()
        return True

    def end_wait(self) -> None:
        begun_ns, self._wait_begun_ns = self._wait_begun_ns, 0
        if begun_ns:
            now_ns, running = _now(), self.running
            if running.begun_ns:
                self._wait_ns += now_ns - begun_ns
            if running.fades:
                running.see(now_ns)

    def before_step(self, optimizer: int) -> None:
        """An optimizer steps. Several steps in one batch count as one."""
        if not self.hooked:
            self.trains = self.hooked = self.parent.shares.trained = True

    def after_step(self, optimizer: int) -> None:
        """The step is done."""
        running = self.running
        if running.fades:
            running.see(_now())

    def pause(self) -> None:
        """An episode begins in this one, maybe while it waits: its loading is a loop, too."""
        now_ns = _now()
        if self._wait_begun_ns and self.running.begun_ns:
            self._wait_ns += now_ns - self._wait_begun_ns
        self.running.pause(now_ns)

    def resume(self) -> None:
        if not self.ended and not self.running.begun_ns:
            now_ns = _now()
            if self._wait_begun_ns:
                self._wait_begun_ns = now_ns
            self.running.resume(now_ns)

    def elsewhere(self, parent: Parent, ns: int) -> None:
        """A short call has ended in this thread; in the same stage, it has its own part."""
        if parent is self.parent:
            self.running.elsewhere(ns)
            if self._wait_begun_ns:
                self._wait_ns -= ns

    @property
    def over(self) -> bool:
        """Whether it has ended, or nobody has its iterator any more."""
        return self.ended or (self.held is not None and not self._wait_begun_ns and not self.held())

    def absorb(self, inner: Episode) -> None:
        """An episode that began in this one takes turns with it: they are one."""
        inner.into = self
        self.iterators += inner.iterators
        self._inner_held = inner.held or inner._inner_held
        if inner.trains:
            self.trains = self.hooked = self.parent.shares.trained = True
        if inner._decided:
            inner.end()
            return
        inner.pause()
        inner.ended = inner._decided = True
        # What it has run since the last tick is now of this one.
        left_ns = inner.running.ran_ns(_now()) - inner.taken_ns - inner._guessed_ns
        self.running.elsewhere(-max(0, left_ns))
        for theirs in inner.main, inner.wait, inner.guess:
            self.main.adopt(theirs)
        if inner in inner.parent.timed:
            inner.parent.timed.remove(inner)

    def outlives(self, gone: Episode) -> bool:
        """Whether another iterator is left, once that of this episode or of one that takes turns has gone."""
        self.iterators -= 1
        if gone is self:
            self.held, self.running.fades = self._inner_held, self._inner_held is not None
        return self.iterators > 0

    def end(self) -> None:
        """The loop is over. Nothing happens the second time."""
        if self.ended:
            return
        if self._wait_begun_ns:
            self.end_wait()
        if self.hooked:
            self.steps, self.hooked = self.steps + 1, False
        self.ended = True
        self.running.stop(_now())
        if not self.parent.shares.engine.put_off(self._close):  # the iterator may go in the middle of a call
            self._close()

    # `Timed`.

    def untaken(self, now_ns: int) -> list[tuple[Receiver, int]]:
        wait_begun_ns, ran_ns = self._wait_begun_ns, self.running.ran_ns(now_ns)
        sure_ns = ran_ns if wait_begun_ns else self.running.sure_ns(now_ns)
        known_ns = self.taken_ns + self._guessed_ns
        all_ns = max(0, sure_ns - known_ns)
        waited_ns = self._wait_ns
        if wait_begun_ns and self.running.begun_ns:
            waited_ns += max(0, now_ns - wait_begun_ns)
        wait_ns = 0
        if not self._together and (self.wait.stage is not None or self.main.stage is None):
            wait_ns = min(all_ns, max(0, waited_ns - self._wait_taken_ns))
        guessed_ns = max(0, ran_ns - max(sure_ns, known_ns))
        return [(self.main, all_ns - wait_ns), (self.wait, wait_ns), (self.guess, guessed_ns)]

    def take(self, receiver: Receiver, ns: int) -> None:
        if receiver is self.guess:
            self._guessed_ns += ns
            return
        self.taken_ns += ns
        if receiver is self.wait:
            self._wait_taken_ns += ns

    def held_back(self) -> list[Part]:
        return [each.kept for each in (self.main, self.wait, self.guess) if each.kept is not None]

    def look(self, now_ns: int) -> None:
        """Before a tick: open its stage when its kind is known, and that of the waiting when it counts."""
        if self.held is not None and not self._see(now_ns):
            self.end()
            return
        patience_ns = _UNDECIDED_NS if self.parent.shares.trained else _FIRST_STEP_NS
        if not self._decided and (self.trains or now_ns - self._first_ns >= patience_ns):
            self._open()
        elif self.main.stage is not None and self.wait.stage is None and not self._together:
            self._open_wait(self.main.stage)
        if self._guessed_ns:
            self.parent.shares.engine.at_edge(self._claim)

    def finish(self) -> None:
        """The stage around it ends."""
        if self.held is not None:
            self._see(_now())
        self.end()

    def _see(self, now_ns: int) -> bool:
        """Whether the loop still has its iterator."""
        if self.over:
            return False
        self.running.see(now_ns)
        return True

    def _claim(self, now_ns: int) -> None:
        """What was a guess belongs to it, if it has been seen since then."""
        if self.running.sure_ns(now_ns) >= self.taken_ns + self._guessed_ns:
            self.main.adopt(self.guess)
            self.taken_ns, self._guessed_ns = self.taken_ns + self._guessed_ns, 0

    def _open(self) -> None:
        parent = self.parent
        kind = self._kind()
        if not parent.stage.affords_stage():
            self._name(kind)  # epochs without a stage are numbered, too
            together = parent.others(self._group(kind))
            together.adopt(self.main)
            together.adopt(self.wait)
            self.main, self._together = together, True
        else:
            self._open_stage(self.main, parent.stage, Share(kind, self._name(kind)))
            if self.main.stage is not None:
                self._open_wait(self.main.stage)
        self._decided = True

    def _group(self, kind: Lifecycle) -> Share:
        return _TOGETHER[kind]

    def _name(self, kind: Lifecycle) -> str:
        if kind != "training":
            return kind
        self.parent.epochs += 1
        return f"epoch {self.parent.epochs}"

    def _kind(self) -> Lifecycle:
        return "training" if self.trains else "evaluation" if self.parent.shares.trained else "inference"

    def _open_wait(self, whole: OpenStage) -> None:
        if self._wait_ns >= _LEAST_NS:
            self._open_stage(self.wait, whole, _WAITING)

    def _open_stage(self, receiver: Receiver, whole: OpenStage, share: Share) -> None:
        """In the context in which it began: its span is in the span that was around it then."""
        self._context.copy().run(self.parent.shares.open, receiver, whole, share, self._first_ns)

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
        self._claim(now_ns)
        shares.settle(parent.stage, now_ns)
        self.guess.kept = None
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
    """The open episodes of a thread, the innermost last."""

    def __init__(self) -> None:
        self.stack: list[Episode] = []


_here = _Loops()


def _renew() -> None:
    """In a forked child: the loops of the parent process go on there, if at all, without a measurement."""
    global _here
    _here = _Loops()


renew_after_fork(_renew)


def begin(episode: Episode) -> Episode:
    """An episode begins on this thread."""
    around = innermost()
    episode.parent.timed.append(episode)
    if around is not None:
        around.pause()
    _here.stack.append(episode)
    note_loop(episode)
    return episode


def innermost() -> Episode | None:
    """The innermost loop of this thread: a tick may have ended others, or nobody has their iterator."""
    stack = _here.stack
    while stack and stack[-1].over:
        end(stack[-1])
    return stack[-1] if stack else None


def stepping() -> Episode | None:
    """The innermost loop, where an optimizer steps.

    The first step after a batch of a loop that has trained before is in that loop, without a look at whether it is
    over, unless only that shows its end: steps come by the thousand.
    """
    stack = _here.stack
    if stack:
        last = stack[-1]
        if last.trains and not last.hooked and not last.ended and last.held is None:
            return last
    return innermost()


def latest() -> Episode | None:
    """The same without a look at whether it is over, for a moment after `innermost`."""
    stack = _here.stack
    return stack[-1] if stack else None


def turn_to(episode: Episode) -> Episode:
    """The loop of this episode asks for data: those that began in it, and are still open, take turns with it."""
    stack = _here.stack
    if stack and stack[-1] is episode:  # as with almost every batch
        return episode
    episode = _whole(episode)
    if episode in stack and innermost() is not episode:
        while stack[-1] is not episode:
            episode.absorb(stack.pop())
        episode.resume()
        note_loop(episode)
    return episode


def _whole(episode: Episode) -> Episode:
    while episode.into is not None and not episode.into.ended:
        episode = episode.into
    return episode


def gone(episode: Episode) -> None:
    """An iterator is exhausted, or nobody has it any more. The loop is over if it was the last one."""
    whole = _whole(episode)
    if whole.ended or not whole.outlives(episode):
        end(whole)


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

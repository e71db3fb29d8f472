"""The stages of calls that libraries make: where one opens, and which stage has the units of a call.

A call opens a stage if no lifecycle stage of its run is open around it. Within a stage that the user has opened
none opens. Within an automatic stage only those kinds open that it admits: a search is one stage, whatever it
calls, but the validation in a training is a stage of its own, as long as the run has an allowance for it. In a
stage of the user, the units of an outermost call of the same kind are added to that stage, if the user sets no
units of that name. Calls that come by the thousand are no stages: see `short_calls.py` and
`frequent.py`. What runs in a call that has no stages in it is a part of that (`outermost.py`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from types import GeneratorType, TracebackType
from typing import Any, Final, cast

from carbon_otel.guard import contain
from carbon_otel.stages import arguments
from carbon_otel.stages.api import Stage, automatic, recorder, stream_of
from carbon_otel.stages.arguments import LIFECYCLE, Lifecycle
from carbon_otel.stages.callables import Line, followed
from carbon_otel.stages.open_stage import OpenStage, current
from carbon_otel.stages.outermost import Outermost, is_part, outermost

# Functional units of a call, from its result; of a stream, from what was entered with it.
Units = Callable[[Any], Mapping[str, float]]

# Makes what is entered with a call, and left before its stage ends; with a stream it is entered at each step.
Within = Callable[[], AbstractContextManager[object]]

# Where a stage admits this, it also has the units of calls of its kind that it does not admit.
UNITS: Final = "units"

# Whether this is the work of a process that a library keeps for its own calls, such as loading data: the stage of
# the call has the energy. A measurement of its own would begin at each start of such a process.
helping: ContextVar[bool] = ContextVar("carbon_otel_helping", default=False)


def around(
    kind: Lifecycle,
    name: str,
    units: Units | None = None,
    admits: Collection[str] = (),
    within: Within | None = None,
    streams: bool = False,
    counts_failed: bool = False,
) -> CallStage | CountedCall | None:
    """What to put around a call that is to be measured; None if the stages around it have all that it uses.

    `streams` says that the call may return a generator, which does the work when it is iterated; `counts_failed`,
    that `units` may be asked, with None as the result, what a call has done that an exception has ended.
    """
    opens, above = place_for(kind)
    if opens:
        made = None if within is None else within()
        return CallStage(automatic(kind, name, admits), units, made, streams, counts_failed)
    call = outermost.get()
    if units is None or above is None or (call is not None and call.counts is above):
        return None
    return CountedCall(above, units, None if within is None else within(), streams, counts_failed)


def nothing_opens() -> bool:
    """Whether the current stage is an automatic one that admits nothing: the quick answer for the calls in it.

    A prediction of a forest makes fifty. A run that begins in such a call changes nothing for them.
    """
    stage = current.get()
    return stage is not None and stage.end is None and stage.admits is not None and not stage.admits


def part(of: OpenStage | None, word: str, name: str, admits: Collection[str]) -> Stage | None:
    """A stage for a part of an automatic stage, of the same kind; None if that admits no part by this word.

    Parts are the epochs of a training and the trials of a study. If an experiment run has begun in the call, as
    trainers begin one, its parts are stages of that run.
    """
    if of is None or not of.open or of.admits is None or word not in of.admits:
        return None
    if _above() not in (of, None) or not of.affords_stage():
        return None
    return automatic(cast(Lifecycle, of.info.kind), name, admits)


def part_beside(of: OpenStage, word: str, name: str) -> OpenStage | None:
    """As `part`, for parts of one thread that are open at the same time: it is not the current stage there.

    It admits nothing: what runs in this thread does not belong to it.
    """
    if not of.open or of.admits is None or word not in of.admits or not of.affords_stage():
        return None
    return of.engine.open(of.info.kind, name[: arguments.LONGEST_NAME], {}, of)


def count_part(word: str, kind: Lifecycle, units: Mapping[str, float]) -> None:
    """Add the units of a part to the stage around it: an automatic one, or one of the user and of the kind."""
    above = _above()
    if above is not None and (above.info.kind == kind if above.admits is None else word in above.admits):
        _add(above, units)


def _above() -> OpenStage | None:
    """The innermost lifecycle stage of the run in which this is called."""
    active = recorder()
    above = None if active is None else active.engine.parent_of(current.get())
    while above is not None and above.run is not above:
        if above.admits is not None or above.info.kind in LIFECYCLE:
            return above
        above = above.parent
    return None


def place_for(kind: str) -> tuple[bool, OpenStage | None]:
    """Whether a stage of the kind opens here, and else the stage that the units of the call belong to."""
    if not _is_measured():
        return False, None
    above = _above()
    if above is None:
        return True, None
    opens, counts = False, above.info.kind == kind
    if above.admits is not None:
        opens = kind in above.admits and above.affords_stage()
        counts = counts and UNITS in above.admits
    return opens, above if counts and not opens else None


def is_admitted(kind: str) -> bool:
    """Whether a stage of the kind would open here if the run had the allowance for it."""
    if not _is_measured():
        return False
    above = _above()
    return above is None or (above.admits is not None and kind in above.admits)


def _is_measured() -> bool:
    return not (helping.get() or is_part() or recorder() is None)


def _add(stage: OpenStage, units: Mapping[str, float]) -> None:
    stage.count({unit: arguments.amount_of(unit, amount) for unit, amount in units.items()})


class CallStage:
    """A call that is a stage. If it returns a stream, the stage goes on with that."""

    __slots__ = ("_before", "_call", "_counts_failed", "_stage", "_streams", "_units", "_within")

    def __init__(
        self,
        stage: Stage,
        units: Units | None,
        within: AbstractContextManager[object] | None = None,
        streams: bool = False,
        counts_failed: bool = False,
    ) -> None:
        self._stage = stage
        self._counts_failed = counts_failed
        self._units = units
        self._within = within
        self._streams = streams
        self._before: Outermost | None = None
        self._call: Outermost | None = None

    def __enter__(self) -> Callable[[Any], Any]:
        self._stage.__enter__()
        if nothing_opens():
            opened = cast(OpenStage, current.get())
            self._before, self._call = outermost.get(), Outermost(opened)
            opened.call = self._call
            outermost.set(self._call)
        if self._within is not None:
            self._within.__enter__()
        return self._seen

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is not None and self._counts_failed:
                contain("counting units", None, self._count, None)
            if self._within is not None:
                self._within.__exit__(kind, error, trace)
        finally:
            try:
                if self._call is not None:
                    self._call.over()
                    outermost.set(self._before)
            finally:
                self._stage.__exit__(kind, error, trace)

    def _seen(self, result: Any) -> Any:
        if self._streams and type(result) is GeneratorType:
            return contain("following a stream", result, self._follow, result)
        if self._units is not None:
            contain("counting units", None, self._count, result)
        return result

    def _follow(self, result: Any) -> Any:
        count = None if self._units is None else functools.partial(self._count, self._within)
        return followed(result, GeneratorType, _Stream(stream_of(self._stage), self._within, count))

    def _count(self, result: Any) -> None:
        self._stage.units(**cast(Units, self._units)(result))


class _Stream:
    """The stage of a stream that a call has returned, with what is entered at each step of it."""

    __slots__ = ("_count", "_line", "_within")

    def __init__(
        self, line: Line, within: AbstractContextManager[object] | None, count: Callable[[], None] | None
    ) -> None:
        self._line = line
        self._within = within
        self._count = count

    def __enter__(self) -> None:
        self._line.__enter__()
        if self._within is not None:
            self._within.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._within is not None:
                self._within.__exit__(kind, error, trace)
        finally:
            self._line.__exit__(kind, error, trace)

    def pay(self) -> None:
        self._line.pay()

    def close(self, generator: Generator[Any, Any, Any]) -> None:
        self._line.close(generator)

    def end(self) -> None:
        try:
            if self._count is not None:
                contain("counting units", None, self._count)
        finally:
            self._line.end()


class CountedCall:
    """A call that adds its units to a stage around it; those of a stream when that ends."""

    __slots__ = ("_before", "_call", "_counts_failed", "_stage", "_streams", "_units", "_within")

    def __init__(
        self,
        stage: OpenStage,
        units: Units,
        within: AbstractContextManager[object] | None = None,
        streams: bool = False,
        counts_failed: bool = False,
    ) -> None:
        self._stage = stage
        self._counts_failed = counts_failed
        self._units = units
        self._within = within
        self._streams = streams
        self._before: Outermost | None = None
        self._call: Outermost | None = None

    def __enter__(self) -> Callable[[Any], Any]:
        self._before, self._call = outermost.get(), Outermost(current.get(), self._stage)
        outermost.set(self._call)
        if self._within is not None:
            self._within.__enter__()
        return self._seen

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is not None and self._counts_failed:
                contain("counting units", None, self._count, None)
            if self._within is not None:
                self._within.__exit__(kind, error, trace)
        finally:
            if self._call is not None:
                self._call.over()
            outermost.set(self._before)

    def pay(self) -> None:
        """Does nothing: the stage around it pays."""

    def close(self, generator: Generator[Any, Any, Any]) -> None:
        generator.close()

    def end(self) -> None:
        contain("counting units", None, self._count, self._within)

    def _seen(self, result: Any) -> Any:
        if self._streams and type(result) is GeneratorType:
            return contain("following a stream", result, followed, result, GeneratorType, self)
        contain("counting units", None, self._count, result)
        return result

    def _count(self, result: Any) -> None:
        _add(self._stage, self._units(result))

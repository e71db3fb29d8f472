"""The stages of calls that libraries make: where one opens, and which stage has the units of a call.

A call opens a stage if no lifecycle stage of its run is open around it. Within a stage that the user has opened
none opens. Within an automatic stage only those kinds open that it admits: a search is one stage, whatever it
calls, but the validation in a training is a stage of its own. In a stage of the user, the units of an outermost
call of the same kind are added to that stage, if the user sets no units of that name. Calls that come by the
thousand are no stages: they share what the stage around them pays (`shares.py`), by the same rules.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import Any, cast

from carbon_otel import runtime
from carbon_otel.guard import contain, log_fault
from carbon_otel.stages import arguments, episodes
from carbon_otel.stages.api import Recorder, Stage, automatic, recorder
from carbon_otel.stages.arguments import LIFECYCLE, Lifecycle
from carbon_otel.stages.episodes import Episode
from carbon_otel.stages.open_stage import OpenStage, current
from carbon_otel.stages.shares import Cell, Share, cell_of

# Functional units of a call, from its result.
Units = Callable[[Any], Mapping[str, float]]

# The stage of the user that the call in progress adds its units to: the calls in it add none.
counting: ContextVar[OpenStage | None] = ContextVar("carbon_otel_counting", default=None)


def around(
    kind: Lifecycle, name: str, units: Units | None = None, admits: Collection[str] = ()
) -> CallStage | CountedCall | None:
    """What to put around a call that is to be measured; None if the stages around it have all that it uses."""
    opens, above = _place(kind)
    if opens:
        return CallStage(automatic(kind, name, admits), units)
    if units is None or above is None or counting.get() is above:
        return None
    return CountedCall(above, units)


def loop(begun_ns: int) -> Episode | None:
    """The episode of a loop over data that began at this time here; None if it belongs to the stages around it."""
    active = _begun()
    if active is None or not _place("training")[0]:
        return None
    engine = active.engine
    return episodes.begin(engine, engine.parent_of(current.get()) or engine.root, begun_ns)


def within(share: Share, units: Units | None = None) -> Cell | CountedShare | None:
    """What to put around a short call; None if its energy belongs to the stages around it, or to a call."""
    stage = current.get()
    if stage is None:
        active = _begun()
        if active is None:
            return None
        stage = active.engine.parent_of(None) or active.engine.root
    try:
        cell = cell_of(share, stage)
    except KeyError:
        cell = _new_cell(share, stage)
    return CountedShare(cell, units) if cell is not None and units is not None else cell


def _begun() -> Recorder | None:
    """The measurement of this process. A short call does not begin one in a forked child."""
    return cast("Recorder | None", runtime.begun())


def _new_cell(share: Share, stage: OpenStage) -> Cell | None:
    active = _begun()
    if active is None:
        return None
    engine = active.engine
    if stage is not engine.root:
        stage = engine.parent_of(stage) or engine.root
    return engine.shares.add(share, stage, counts=_place(share.kind)[0])


def silence() -> None:
    """Open no stages of calls in this process any more: it works for another one, which pays."""
    global _silent
    _silent = True


_silent = False


def _place(kind: str) -> tuple[bool, OpenStage | None]:
    """Whether a stage of the kind opens here, and else the stage of the user that the units belong to."""
    active = None if _silent else recorder()
    if active is None:
        return False, None
    above = active.engine.parent_of(current.get())
    while above is not None and above.run is not above:
        if above.admits is not None:
            return kind in above.admits, None
        if above.info.kind in LIFECYCLE:
            return False, above if above.info.kind == kind else None
        above = above.parent
    return True, None


class CallStage:
    """A call that is a stage."""

    __slots__ = ("_stage", "_units")

    def __init__(self, stage: Stage, units: Units | None) -> None:
        self._stage = stage
        self._units = units

    def __enter__(self) -> Callable[[Any], Any]:
        self._stage.__enter__()
        return self._seen

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stage.__exit__(kind, error, trace)

    def _seen(self, result: Any) -> Any:
        if self._units is not None:
            contain("counting units", None, self._count, result)
        return result

    def _count(self, result: Any) -> None:
        self._stage.units(**cast(Units, self._units)(result))


class CountedCall:
    """A call in a stage that the user has opened."""

    __slots__ = ("_before", "_stage", "_units")

    def __init__(self, stage: OpenStage, units: Units) -> None:
        self._stage = stage
        self._units = units
        self._before: OpenStage | None = None

    def __enter__(self) -> Callable[[Any], Any]:
        self._before = counting.get()
        counting.set(self._stage)
        return self._seen

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        counting.set(self._before)

    def _seen(self, result: Any) -> Any:
        contain("counting units", None, self._count, result)
        return result

    def _count(self, result: Any) -> None:
        counted = self._stage.counted
        for unit, amount in self._units(result).items():
            counted[unit] = counted.get(unit, 0.0) + arguments.amount_of(unit, amount)


class CountedShare:
    """A short call whose units are counted."""

    __slots__ = ("_cell", "_units")

    def __init__(self, cell: Cell, units: Units) -> None:
        self._cell = cell
        self._units = units

    def __enter__(self) -> Callable[[Any], Any]:
        self._cell.__enter__()
        return self._seen

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cell.__exit__(kind, error, trace)

    def _seen(self, result: Any) -> Any:
        # Not `contain`, because these calls come by the thousand.
        try:
            self._cell.fresh = self._units(result)
        except Exception as fault:  # noqa: BLE001 - no internal fault may reach the user's program
            log_fault("counting units", fault)
        return result

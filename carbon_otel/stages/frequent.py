"""Calls that may come by the thousand, but need not: predictions and transformations.

The first ones are stages, later one a second, and each that comes after one of a quarter of a second (`pace.py`).
The others share what the stage around them pays, or the process if there is none, with one child for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, cast

from carbon_otel import clock, runtime
from carbon_otel.guard import log_fault
from carbon_otel.stages import cells
from carbon_otel.stages.allowance import Allowance
from carbon_otel.stages.api import Recorder
from carbon_otel.stages.arguments import LONGEST_NAME, Lifecycle
from carbon_otel.stages.automatic import CallStage, CountedCall, Units, around, is_admitted
from carbon_otel.stages.cells import Cell, cells_here
from carbon_otel.stages.open_stage import OpenStage, current
from carbon_otel.stages.outermost import Outermost, is_part, outermost
from carbon_otel.stages.pace import Pace

# The kinds of calls that may come often. A training may begin an experiment run, and has epochs.
FREQUENT: Final[tuple[Lifecycle, ...]] = "inference", "data_processing"
_now: Final = clock.monotonic_ns


def around_frequent(
    kind: Lifecycle, name: str, units: Units | None
) -> TimedCall | SharedCall | CallStage | CountedCall | None:
    """What to put around a call that may come often; None if it belongs to the stages around it."""
    active = cast("Recorder | None", runtime.begun())
    if active is None:  # a call may begin the measurement of a child process
        return around(kind, name, units)
    engine = active.engine
    stage = engine.parent_of(current.get()) or engine.root
    pace = stage.paces.get((kind, name))
    if pace is None:
        pace = _new_pace(stage, kind, name)
    if pace.admits_stage(_now()):
        entered = around(kind, name, units)
        if entered is not None:
            return TimedCall(entered, pace)
    try:
        cell = cells_here()[stage][pace.share]
    except KeyError:
        if is_part():  # its answer holds for this call only
            return None
        cell = engine.shares.add(pace.share, stage, counts=is_admitted(kind))
    if cell is None:
        return around(kind, name, units)
    return None if cell.begun_ns else SharedCall(cell, pace, units)


def _new_pace(stage: OpenStage, kind: Lifecycle, name: str) -> Pace:
    # A service runs for months.
    most = {} if stage.parent is not None else {"most": math.inf}
    pace = Pace(kind, name[:LONGEST_NAME], Allowance(_now(), **most))
    return stage.paces.setdefault((kind, name), pace)


class TimedCall:
    """A call that is a stage, and how long it takes."""

    __slots__ = ("_begun_ns", "_entered", "_pace")

    def __init__(self, entered: CallStage | CountedCall, pace: Pace) -> None:
        self._entered = entered
        self._pace = pace
        self._begun_ns = 0

    def __enter__(self) -> Callable[[Any], Any]:
        self._begun_ns = _now()
        return self._entered.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pace.took(_now() - self._begun_ns)
        self._entered.__exit__(kind, error, trace)


class SharedCall:
    """A call that shares. The calls in it are parts of it; it has its own time within a short call."""

    __slots__ = ("_before", "_call", "_cell", "_inside", "_pace", "_units")

    def __init__(self, cell: Cell, pace: Pace, units: Units | None) -> None:
        self._cell = cell
        self._pace = pace
        self._units = units
        self._before = outermost.get()
        self._call = Outermost(current.get())
        self._inside: Cell | None = None

    def __enter__(self) -> Callable[[Any], Any]:
        self._inside = cells.inside()
        self._cell.call = self._call
        # First: where an exception comes next, the next tick finds the cell, and ends the call.
        self._cell.__enter__()
        outermost.set(self._call)
        return self._seen

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        cell = self._cell
        before_ns = cell.done_ns
        outermost.set(self._before)
        try:
            self._call.over()
        finally:
            cell.__exit__(kind, error, trace)
        took_ns = cell.done_ns - before_ns
        self._pace.took(took_ns)
        if self._inside is not None:
            cells.back_to(self._inside, took_ns)

    def _seen(self, result: Any) -> Any:
        if self._units is not None:
            # Not `contain`, because these calls come by the thousand.
            try:
                self._cell.fresh = self._units(result)
            except Exception as fault:  # noqa: BLE001 - no internal fault may reach the user's program
                log_fault("counting units", fault)
        return result

"""Where calls that come by the thousand, and loops over data, share what a stage pays.

The rules are those of `automatic.py`: within a lifecycle stage of the user, and within an automatic stage that
does not admit their kind, the energy stays there. A short call never begins a measurement in a child process; a
loop does, as a call that becomes a stage.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, cast

from carbon_otel import clock, runtime
from carbon_otel.fork import renew_after_fork
from carbon_otel.guard import log_fault
from carbon_otel.stages import episodes
from carbon_otel.stages.api import Recorder
from carbon_otel.stages.automatic import Units, is_admitted
from carbon_otel.stages.cells import Cell, Share, cell_of
from carbon_otel.stages.episodes import Episode
from carbon_otel.stages.open_stage import OpenStage, current
from carbon_otel.stages.outermost import is_part
from carbon_otel.stages.shares import Parent
from carbon_otel.stages.steps import Steps


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


def before_loop() -> Parent | None:
    """The stage that a loop is in that begins here; None if its energy belongs to the stages around it."""
    if not is_admitted("training"):
        return None
    active = _begun()
    return None if active is None else active.engine.shares.divided(_payer(active))


def loop(parent: Parent, begun_ns: int, held: Callable[[], bool] | None = None) -> Episode:
    """The episode of a loop over data that began at this time here.

    `held` tells whether the loop still has its iterator, where nothing else does.
    """
    return episodes.begin(Episode(parent, begun_ns, held))


def before_step(optimizer: int) -> None:
    """An optimizer, by its id, begins a step in this thread. If no loop over data does, the steps are a loop."""
    inner = episodes.stepping()
    steps = inner if isinstance(inner, Steps) else None
    if inner is not None and steps is None:
        inner.before_step(optimizer)
        return
    active, here = _begun(), current.get()
    if steps is None and here is not None and here is _refused.stage:
        return
    if steps is not None and active is not None and _payer(active) is not steps.parent.stage:
        episodes.end(steps)  # another stage is around the steps now
        steps = None
    if steps is None:
        parent = before_loop()
        if parent is None:
            _refused.stage = here
            return
        steps = Steps(parent, clock.monotonic_ns())
        episodes.begin(steps)
    steps.before_step(optimizer)


def after_step(optimizer: int) -> None:
    """The step is done."""
    inner = episodes.latest()
    if inner is not None:
        inner.after_step(optimizer)


class _Refused(threading.local):
    """The stage of a thread in which steps are no loop, asked for once: a training has them by the thousand."""

    def __init__(self) -> None:
        self.stage: OpenStage | None = None


_refused = _Refused()


def _renew() -> None:
    """In a forked child, a measurement of its own is asked again."""
    global _refused
    _refused = _Refused()


renew_after_fork(_renew)


def _payer(active: Recorder) -> OpenStage:
    """The stage that pays for what is done here."""
    return active.engine.parent_of(current.get()) or active.engine.root


def _begun() -> Recorder | None:
    return cast("Recorder | None", runtime.begun())


def _new_cell(share: Share, stage: OpenStage) -> Cell | None:
    active = _begun()
    if active is None or is_part():
        return None
    engine = active.engine
    if stage is not engine.root:
        stage = engine.parent_of(stage) or engine.root
    with contextlib.suppress(KeyError):  # the current stage is not the one that pays
        return cell_of(share, stage)
    return engine.shares.add(share, stage, counts=is_admitted(share.kind))


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

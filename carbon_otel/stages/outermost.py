"""The outermost call of a library in a thread or task: the calls in it are parts of it.

A prediction of a forest makes fifty. The code around a call asks this first, see `instrumentation/in_place.py`.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

from carbon_otel.stages.open_stage import OpenStage, current

_OVER: Final = object()


class Outermost:
    """A call in progress.

    Attributes:
        stage: the current stage in it. While another one is current, the user has opened one in the call.
        counts: the stage of the user that the call adds its units to, if any: the calls in it add none.
    """

    __slots__ = ("_handed", "counts", "stage")

    def __init__(self, stage: OpenStage | None, counts: OpenStage | None = None) -> None:
        self.stage: object = stage
        self.counts = counts
        self._handed: tuple[Outermost, ...] = ()

    def hand_on(self, stage: OpenStage | None) -> Outermost:
        """The same call for another thread, in which this stage is current."""
        there = Outermost(stage, self.counts)
        if not self.goes_on_here():
            there.stage = _OVER
        self._handed = (*self._handed, there)
        return there

    def goes_on_here(self) -> bool:
        return self.stage is current.get()

    def over(self) -> None:
        """The call has ended, also for the threads that it was handed on to."""
        self.stage, self.counts = _OVER, None
        for each in self._handed:
            each.over()


outermost: ContextVar[Outermost | None] = ContextVar("carbon_otel_outermost", default=None)


def is_part() -> bool:
    """Whether what runs here is part of a call in progress."""
    call = outermost.get()
    return call is not None and call.goes_on_here()

"""The rounds in which ticks tell the sinks what the open stages have paid: each tick of some of them, in turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from carbon_otel.records import StageInfo
from carbon_otel.stages.accounts import Books
from carbon_otel.stages.open_stage import OpenStage
from carbon_otel.stages.sums import Joules, Paid

# Each stage takes 20 us of a tick. The end of a stage tells of it in any case.
MOST_TOLD: Final = 50

Payment = tuple[StageInfo, Joules, float, float]


class Rounds:
    """Changed under the engine's lock."""

    def __init__(self, books: Books, root: OpenStage, held_back: Callable[[OpenStage], Paid | None]) -> None:
        """Of what is held back of a stage the sinks are told in a later round."""
        self._books = books
        self._root = root
        self._held_back = held_back
        # The open stages that the present round has not told of, the next one last.
        self._left: list[OpenStage] = []
        # Those of which a round has found that nobody is left who could end them.
        self.abandoned: deque[OpenStage] = deque()

    @property
    def over(self) -> bool:
        return not self._left

    def begin(self) -> None:
        """Let the next payments begin a new round."""
        self._left = []

    def payments(self, stages: Iterable[OpenStage]) -> Iterator[Payment]:
        """What the process and the next of the open stages have paid since the sinks were told of it."""
        if not self._left:
            self._left = [*stages]
            self._left.reverse()
        payments = [self._payment(self._root)]
        while self._left and len(payments) <= MOST_TOLD:
            stage = self._left.pop()
            if stage.end is None:
                payments.append(self._payment(stage))
                if stage.owner is not None and stage.owner() is None:
                    self.abandoned.append(stage)
        return iter(payments)

    def _payment(self, stage: OpenStage) -> Payment:
        return stage.info, *self._books.settle(stage.account, self._held_back(stage))

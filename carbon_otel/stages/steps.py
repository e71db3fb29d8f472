"""Steps of optimizers outside of a loop over data: tensors held in memory, reinforcement learning.

Where such a loop begins and ends is not seen. So it lasts from the begin of its first step to the end of its last
one: the first forward and backward pass belong to the stage around it. It is over when no step has come for a
minute, or when its stage is. Loops that follow each other within a minute are one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from carbon_otel import clock
from carbon_otel.stages.arguments import Lifecycle
from carbon_otel.stages.cells import Share
from carbon_otel.stages.episodes import Episode
from carbon_otel.stages.running import Running
from carbon_otel.units import NS_PER_S

if TYPE_CHECKING:
    from carbon_otel.stages.shares import Parent

_now: Final = clock.monotonic_ns
_PAUSE_NS: Final = 60 * NS_PER_S
# With a closure, as L-BFGS has it, one step may be all the training.
_LONG_STEP_NS: Final = 600 * NS_PER_S
_TOGETHER: Final = Share("training", "training")


class Steps(Episode):
    """The steps of one thread in one stage.

    An iteration with several optimizers is one step: the next one begins with an optimizer that has stepped in it.
    """

    __slots__ = ("_in_round", "_last_ns", "_stepping")

    def __init__(self, parent: Parent, begun_ns: int) -> None:
        super().__init__(parent, begun_ns)
        self.running = Running(begun_ns, fades=True)
        self.trains = parent.shares.trained = True
        self._last_ns = begun_ns
        self._in_round: set[int] = set()
        # The optimizers in the middle of a step. One may stay here whose step has raised, until its next one.
        self._stepping: set[int] = set()

    def before_step(self, optimizer: int) -> None:
        """A step within the step of the same optimizer is none: a subclass calls that of its parent."""
        if optimizer in self._stepping:
            return
        self._stepping.add(optimizer)
        if not self._in_round or optimizer in self._in_round:
            self.steps += 1
            self._in_round = {optimizer}
        else:
            self._in_round.add(optimizer)
        self._last_ns = _now()
        self.running.see(self._last_ns)

    def after_step(self, optimizer: int) -> None:
        self._stepping.discard(optimizer)
        self._last_ns = _now()
        self.running.see(self._last_ns)

    def look(self, now_ns: int) -> None:
        if now_ns - self._last_ns >= (_LONG_STEP_NS if self._stepping else _PAUSE_NS):
            self.end()
        else:
            super().look(now_ns)

    def _group(self, kind: Lifecycle) -> Share:
        return _TOGETHER

    def _name(self, kind: Lifecycle) -> str:
        return "training"

    def _units(self) -> dict[str, float]:
        return {"steps": self.steps}

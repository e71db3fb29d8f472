"""The parts of what a stage pays that go to calls in it, by the time that these take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from carbon_otel.stages.open_stage import OpenStage
from carbon_otel.stages.sums import Joules, Paid, added, together
from carbon_otel.stages.tally import Tally
from carbon_otel.units import S_PER_NS


class Part(NamedTuple):
    """What calls have paid, the nanoseconds that they took, and bounds on the joules of each device."""

    paid: Paid
    ns: int
    least_j: Joules
    most_j: Joules

    def plus(self, more: Part) -> Part:
        return Part(
            together(self.paid, more.paid),
            self.ns + more.ns,
            added(self.least_j, more.least_j),
            added(self.most_j, more.most_j),
        )


class Interval(NamedTuple):
    """What a stage has paid in some time, in which calls ran for `whole_ns`, or which lasted so long.

    `most_w` is the most power of each device, in proportion to the process's share of it, as the joules are.
    """

    paid: Paid
    elapsed_ns: int
    whole_ns: float
    most_w: Sequence[float]

    def part(self, ns: int) -> Part:
        """The part of calls that ran for `ns`.

        They have drawn at least what is left if the device drew its most power in the rest of the time, and at
        most its most power, and all that was paid.
        """
        ratio = ns / self.whole_ns
        busy_s = ratio * self.elapsed_ns * S_PER_NS
        idle_s = self.elapsed_ns * S_PER_NS - busy_s
        all_j, grams, embodied_g = self.paid
        bounds = list(zip(all_j, self.most_w, strict=True))
        return Part(
            (tuple([joules * ratio for joules in all_j]), grams * ratio, embodied_g * ratio),
            ns,
            tuple([min(joules * ratio, max(0.0, joules - most * idle_s)) for joules, most in bounds]),
            tuple([max(joules * ratio, min(joules, most * busy_s)) for joules, most in bounds]),
        )


class Receiver:
    """What gets parts: a stage, once it is open, and until then a sum that is kept for it.

    Attributes:
        above: the receiver whose stage its own stage is below, if not that which pays.
    """

    __slots__ = ("_counted", "_free", "above", "kept", "stage")

    def __init__(self) -> None:
        self.stage: OpenStage | None = None
        self.kept: Part | None = None
        self.above: Receiver | None = None
        self._counted = Tally()
        self._free = [True]

    def claim(self) -> bool:
        """Whether the caller is the one who opens its stage: threads and signal handlers may come at once."""
        try:
            return self._free.pop()  # one step, so that no lock is needed
        except IndexError:
            return False

    def keep(self, part: Part) -> None:
        self.kept = part if self.kept is None else self.kept.plus(part)

    def adopt(self, other: Receiver) -> None:
        """Take what is kept for another one."""
        if other.kept is not None:
            self.keep(other.kept)
            other.kept = None

    def count(self, units: Mapping[str, float]) -> None:
        """Add functional units, which the stage gets as soon as it is open."""
        self._counted.add(units)

    def opened(self, stage: OpenStage) -> None:
        stage.counted = self._counted
        self.stage = stage

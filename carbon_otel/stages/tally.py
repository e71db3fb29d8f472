"""Sums of functional units to which several threads add at once."""

from __future__ import annotations

from collections.abc import Mapping
from threading import get_ident


class Tally(dict[int, dict[str, float]]):
    """Units by thread and name. Each thread adds to sums of its own, so none waits for a lock and none is lost.

    A dict, because each stage has one, and most stay empty.
    """

    __slots__ = ()

    def add(self, units: Mapping[str, float]) -> None:
        # A thread may have the number of one that has ended, and goes on with its sums.
        sums = self.setdefault(get_ident(), {})
        for unit, amount in units.items():
            sums[unit] = sums.get(unit, 0.0) + amount

    def total(self) -> dict[str, float]:
        total: dict[str, float] = {}
        # Copies, each made in one step: other threads may add meanwhile.
        for sums in list(self.values()):
            for unit, amount in dict(sums).items():
                total[unit] = total.get(unit, 0.0) + amount
        return total

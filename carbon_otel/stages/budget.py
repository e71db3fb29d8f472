"""How many spans calls of libraries may have: one a second, and a thousand in a run.

A trace with more is not read by anybody, and costs the collector. The energy is exact all the same: what has no
span of its own stays with the stage around it, or with the calls of the same name together.
"""

from __future__ import annotations

from typing import Final
from weakref import WeakKeyDictionary

from carbon_otel.stages.open_stage import OpenStage
from carbon_otel.units import NS_PER_S

_MOST: Final = 1000


class SpanBudget:
    """The spans of the calls in each run, or in another stage outside of runs."""

    def __init__(self) -> None:
        self._spent: WeakKeyDictionary[OpenStage, tuple[int, int]] = WeakKeyDictionary()

    def allows(self, stage: OpenStage, now_ns: int) -> bool:
        """Whether one more may open now; it then counts."""
        count, last_ns = self._spent.get(stage, (0, now_ns - NS_PER_S))
        if count >= _MOST or now_ns - last_ns < NS_PER_S:
            return False
        self._spent[stage] = count + 1, now_ns
        return True

"""How many spans calls of libraries may have: one a second on average, ten at once, and a thousand in a run.

A trace with more is not read by anybody, and costs the collector. The energy is exact all the same: what has no
span of its own stays with the stage around it, or with the calls of the same name together.
"""

from __future__ import annotations

from typing import Final
from weakref import WeakKeyDictionary

from carbon_otel.stages.open_stage import OpenStage
from carbon_otel.units import S_PER_NS

_MOST: Final = 1000
_AT_ONCE: Final = 10


class SpanBudget:
    """The spans of the calls in each run, or in another stage outside of runs."""

    def __init__(self) -> None:
        # By stage: how many have opened, how many may open now, and since when.
        self._spent: WeakKeyDictionary[OpenStage, tuple[int, float, int]] = WeakKeyDictionary()

    def allows(self, stage: OpenStage, now_ns: int) -> bool:
        """Whether one more may open now; it then counts."""
        count, left, since_ns = self._spent.get(stage, (0, float(_AT_ONCE), now_ns))
        left = min(float(_AT_ONCE), left + max(0, now_ns - since_ns) * S_PER_NS)
        allowed = count < _MOST and left >= 1
        self._spent[stage] = (count + 1, left - 1, now_ns) if allowed else (count, left, now_ns)
        return allowed

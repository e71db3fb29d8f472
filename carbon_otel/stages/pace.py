"""Whether a call that may come often is a stage, or shares what the stage around it pays."""

from __future__ import annotations

from typing import Final

from carbon_otel.stages.allowance import Allowance
from carbon_otel.stages.arguments import Lifecycle
from carbon_otel.stages.cells import LONG_NS, Share
from carbon_otel.units import NS_PER_S

# However little time its calls take, they have a child: else a service with few requests would show nothing.
_LEAST_NS: Final = 1
# The allowance is asked again after so long.
_AGAIN_NS: Final = NS_PER_S // 100


class Pace:
    """The calls of one kind and name in a stage, or outside of any.

    Those that the allowance admits are stages, and so is one that comes after a long one. The others share.
    """

    __slots__ = ("_again_ns", "_allowance", "_slow", "share")

    def __init__(self, kind: Lifecycle, name: str, allowance: Allowance) -> None:
        self.share = Share(kind, name, _LEAST_NS)
        self._allowance = allowance
        self._slow = False
        self._again_ns = 0

    def admits_stage(self, now_ns: int) -> bool:
        if self._slow:
            return True
        if now_ns < self._again_ns:
            return False
        if self._allowance.take(now_ns):
            return True
        self._again_ns = now_ns + _AGAIN_NS
        return False

    def took(self, ns: int) -> None:
        """A call has lasted so long."""
        self._slow = ns >= LONG_NS

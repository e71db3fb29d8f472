"""How many stages may open inside the automatic stages of a run.

An epoch or a validation may take a millisecond, and each stage is a span that somebody stores. Beyond the
allowance none opens, and the stage around pays: the energy is the same, with less detail.
"""

from __future__ import annotations

from typing import Final

from carbon_otel.units import S_PER_NS

# One a second on average, with some for the short runs that people begin with.
_PER_SECOND: Final = 1.0
_AT_ONCE: Final = 20.0
_MOST: Final = 1000


class Allowance:
    """The allowance of one run. It grows by one stage a second, up to 20, and ends after `most` stages."""

    __slots__ = ("_left", "_saved", "_then_ns")

    def __init__(self, now_ns: int, most: float = _MOST) -> None:
        self._left = most
        self._saved = _AT_ONCE
        self._then_ns = now_ns

    def take(self, now_ns: int) -> bool:
        """Whether one more stage may open."""
        grown = self._saved + _PER_SECOND * (now_ns - self._then_ns) * S_PER_NS
        self._saved, self._then_ns = min(_AT_ONCE, grown), now_ns
        if self._left == 0 or self._saved < 1.0:
            return False
        self._left -= 1
        self._saved -= 1.0
        return True

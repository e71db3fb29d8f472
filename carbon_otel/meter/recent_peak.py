"""The most power that a slow counter has shown lately."""

from __future__ import annotations

import math
from typing import Final

from carbon_otel.units import NS_PER_S, S_PER_NS

_MINUTE_NS: Final = 60 * NS_PER_S


class RecentPeak:
    """The most mean power between two readings in the last one to two minutes, in watts.

    Between two readings a counter rises by what was drawn in a whole number of its periods: the time between them,
    rounded down or up. It is taken as rounded up, so that this is never more than the device drew.
    """

    __slots__ = ("_before_w", "_began_ns", "_now_w")

    def __init__(self) -> None:
        self._began_ns = 0
        self._before_w = self._now_w = 0.0

    @property
    def watts(self) -> float:
        return max(self._before_w, self._now_w)

    def note(self, now_ns: int, joules: float, elapsed_ns: int, period_s: float) -> None:
        """Note the joules that the counter has risen by since a reading `elapsed_ns` ago."""
        since_ns = now_ns - self._began_ns
        if since_ns > _MINUTE_NS:
            self._before_w = self._now_w if since_ns <= 2 * _MINUTE_NS else 0.0
            self._now_w, self._began_ns = 0.0, now_ns
        periods = max(1, math.ceil(elapsed_ns * S_PER_NS / period_s))
        self._now_w = max(self._now_w, joules / (periods * period_s))

"""The process tree's share of one GPU, from the driver's samples of the processes that keep it busy.

Each sample names one process, at random among those that the GPU works for in turn, so the tree has a binomial
part of them. Over a long time the errors cancel out; of a second little is known: an H200 takes five samples a
second (tests/hardware/README.md).
"""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Final

from carbon_otel.sensors.base import ProcessUse
from carbon_otel.units import NS_PER_S

GpuUse = Callable[[], ProcessUse | None]

# A process that no sample has named for so long is not there.
_MEMORY_NS: Final = 60 * NS_PER_S


class GpuShare:
    """Asks the driver of one GPU."""

    def __init__(self, use: GpuUse) -> None:
        self._use = use
        self._others_until_ns = 0

    def look(self, pids: Set[int], idle_share: float, now_ns: int) -> tuple[float, float] | None:
        """The share since the last call, and of how many samples it is the mean; None if the driver tells nothing.

        No sample is needed while the GPU works for nobody else. `pids` are the processes of the tree, `idle_share`
        is its share of the time in which the GPU does nothing. Raises SensorError.
        """
        use = self._use()
        total = sum(use.busy.values()) if use else 0.0
        if use is None or total <= 0:
            return None
        own = sum(busy for pid, busy in use.busy.items() if pid in pids)
        if own < total:
            self._others_until_ns = now_ns + _MEMORY_NS
        active = min(1.0, total)
        # Only the active part is in doubt: as much as if there were more samples.
        samples = max(1.0, use.samples) / active if now_ns < self._others_until_ns else 0.0
        return active * own / total + (1 - active) * idle_share, samples

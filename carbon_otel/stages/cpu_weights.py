"""Weights of concurrent stages by the CPU time of their threads.

They are used only if the threads of the stages account for nearly all CPU time of the process. A thread that waits
for a native pool (BLAS, joblib, a DataLoader) uses no CPU time; equal weights are then the better estimate.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from carbon_otel.guard import pass_on

_HAS_CLOCKS: Final = sys.platform == "linux" and hasattr(time, "clock_gettime")
_EXPLAINED: Final = 0.9
_LEAST_WEIGHT: Final = 1e-3

T = TypeVar("T")


def thread_cpu_seconds(native_id: int) -> float | None:
    """CPU seconds of a thread of this process by its kernel id; None if it has ended, or not on Linux."""
    if not _HAS_CLOCKS:
        return None
    # The kernel's per-thread CPU clock: MAKE_THREAD_CPUCLOCK(tid, CPUCLOCK_SCHED), linux/posix-timers.h. Unlike
    # pthread_getcpuclockid it is safe for a thread that has ended.
    clock = (~native_id << 3) | 6
    try:
        return time.clock_gettime(clock)
    except OSError as error:
        pass_on(error)
        return None


class ThreadWeights:
    """Converts CPU times between two calls to weights with mean one."""

    def __init__(
        self,
        thread_seconds: Callable[[int], float | None] = thread_cpu_seconds,
        process_seconds: Callable[[], float] = time.process_time,
    ) -> None:
        self._thread_seconds = thread_seconds
        self._process_seconds = process_seconds
        self._threads: dict[int, float] = {}
        self._process = 0.0

    def weigh(self, payers: Mapping[T, int]) -> dict[T, float] | None:
        """The weights of payers, given the kernel id of each payer's thread; None if they are unknown."""
        process, threads = self._process_seconds(), {}
        for native_id in set(payers.values()):
            seconds = self._thread_seconds(native_id)
            if seconds is not None:
                threads[native_id] = seconds
        before, process_before = self._threads, self._process
        self._threads, self._process = threads, process
        if any(native_id not in before or native_id not in threads for native_id in payers.values()):
            return None
        spent = {native_id: threads[native_id] - before[native_id] for native_id in threads}
        total = sum(spent.values())
        if total <= 0 or total < _EXPLAINED * (process - process_before):
            return None
        sharing = Counter(payers.values())
        return {
            payer: max(_LEAST_WEIGHT, spent[n] / total / sharing[n] * len(payers))
            for payer, n in payers.items()
        }

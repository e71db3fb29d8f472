"""Weights of concurrent stages by the CPU time of their threads.

They are used only if the threads of the stages account for nearly all CPU time of the process. A thread that waits
for a native pool (BLAS, joblib, a DataLoader) uses no CPU time; equal weights are then the better estimate.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from carbon_otel.guard import pass_on
from carbon_otel.sensors.base import Device
from carbon_otel.stages.accounts import Account, Books

if TYPE_CHECKING:
    from carbon_otel.stages.open_stage import OpenStage

_HAS_CLOCKS: Final = sys.platform == "linux" and hasattr(time, "clock_gettime")
_EXPLAINED: Final = 0.9
_LEAST_WEIGHT: Final = 1e-3
# Beyond this number of payers all weigh the same: for each one, a tick would read a clock and change the books.
_MOST_WEIGHED: Final = 64

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


class StageWeights:
    """Sets the weights of the stages that pay until the next tick. Called under the engine's lock."""

    def __init__(self, books: Books, devices: Sequence[Device], threads: ThreadWeights) -> None:
        self._books = books
        self._devices = devices
        self._threads = threads
        self._uneven = False

    def renew(self, stages: Mapping[Account, OpenStage]) -> None:
        """Weigh by the CPU times since the last tick. `stages` are all open ones."""
        payers = self._books.payers(_MOST_WEIGHED)
        if payers is None:
            if self._uneven:
                self._books.set_weights({})
                self._uneven = False
            return
        threads = {payer: stages[payer].native_thread for payer in payers if payer in stages}
        by_cpu = self._threads.weigh(threads)
        if len(threads) < 2:
            return
        self._uneven = True
        self._books.set_weights(
            {
                payer: [1.0 if device.type == "gpu" else weight for device in self._devices]
                for payer, weight in (by_cpu or {}).items()
            }
        )

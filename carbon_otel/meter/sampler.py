"""The thread that ticks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from carbon_otel.guard import contain


class Sampler:
    """Calls `tick` at every multiple of the interval of the monotonic clock, from a daemon thread, and `prepare`
    once before.

    All processes of a host then tick together, so the shares they compute are of the same intervals.
    """

    def __init__(
        self,
        tick: Callable[[], None],
        interval_s: float,
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        self._tick = tick
        self._prepare = prepare
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="carbon_otel-sampler", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        self._stop.set()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        contain("learning the sensors' periods", None, self._prepare)
        while not self._stop.wait(self._interval_s - time.monotonic() % self._interval_s):
            contain("reading the sensors", None, self._tick)

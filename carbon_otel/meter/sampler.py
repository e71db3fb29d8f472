"""The thread that reads the sensors at regular intervals."""

from __future__ import annotations

import threading
from collections.abc import Callable

from carbon_otel import clock
from carbon_otel.guard import survive


class Sampler:
    """A daemon thread that calls `prepare` once, then `tick` at every multiple of the interval.

    The multiples are those of the monotonic clock, so all processes of a host tick together and measure their
    shares over the same intervals.
    """

    def __init__(
        self,
        tick: Callable[[], None],
        interval_s: float,
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        self._tick = tick
        self._prepare = prepare
        self.interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="carbon_otel-sampler", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Stop the thread, and wait at most `timeout_s` seconds for a running tick."""
        self._stop.set()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def rest(self, seconds: float) -> None:
        """Wait, on its thread; but not beyond its end."""
        self._stop.wait(seconds)

    def _run(self) -> None:
        survive("preparing the sensors", self._prepare)
        while not self._stop.wait(self.interval_s - clock.monotonic() % self.interval_s):
            survive("reading the sensors", self._tick)

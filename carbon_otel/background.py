"""A daemon thread that does one thing after another, so that callers need not wait for the network."""

from __future__ import annotations

import functools
import queue
import threading
from collections.abc import Callable

from carbon_otel.guard import contain


class Worker:
    """Runs submitted calls in order. Started when made: at interpreter exit no thread can be started any more."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: queue.SimpleQueue[tuple[Callable[[], object], threading.Event] | None]
        self._calls = queue.SimpleQueue()
        self._latest: dict[object, Callable[[], object]] = {}
        self._replacing = threading.Lock()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def submit(self, call: Callable[[], object]) -> threading.Event:
        """Queue a call; the event is set when it has returned or failed."""
        done = threading.Event()
        self._calls.put((call, done))
        return done

    def submit_latest(self, key: object, call: Callable[[], object]) -> None:
        """Queue a call; dropped if another one with its key is queued before it has been made."""
        with self._replacing:
            self._latest[key] = call
        self.submit(functools.partial(self._call_if_latest, key, call))

    def close(self) -> None:
        """End the thread once it has done what was submitted."""
        self._calls.put(None)

    def _call_if_latest(self, key: object, call: Callable[[], object]) -> None:
        with self._replacing:
            if self._latest.get(key) is not call:
                return
            del self._latest[key]
        call()

    def _run(self) -> None:
        while (item := self._calls.get()) is not None:
            call, done = item
            contain(self._name, call, None)
            done.set()

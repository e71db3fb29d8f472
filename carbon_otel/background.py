"""A daemon thread that makes one call after another, so that callers need not wait for the network."""

from __future__ import annotations

import functools
import queue
import threading
from collections.abc import Callable

from carbon_otel.fork import renew_after_fork
from carbon_otel.guard import survive


class Worker:
    """Runs submitted calls in order.

    The thread starts with the object, since no thread can be started at interpreter exit. In a forked child it
    starts with the first call submitted there; calls submitted before the fork run in the parent only. A signal
    handler, or a finalizer, may submit a call while its thread is just submitting one.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._renew()
        self._start()
        renew_after_fork(self._renew)

    def submit(self, call: Callable[[], object]) -> threading.Event:
        """Queue a call. The event is set when the call has returned or failed.

        Raises RuntimeError in a forked child that is exiting, if this is its first call.
        """
        with self._starting:
            if not self._started:
                self._start()
        done = threading.Event()
        self._calls.put((call, done))
        return done

    def submit_latest(self, key: object, call: Callable[[], object]) -> None:
        """Queue a call. It replaces an earlier call with the same key that has not run yet."""
        with self._replacing:
            self._latest[key] = call
        self.submit(functools.partial(self._call_if_latest, key, call))

    def runs_here(self) -> bool:
        """Whether this is its thread, which must not wait for a call of its own."""
        return self._ident == threading.get_ident()

    def close(self) -> None:
        """End the thread once it has made the calls submitted so far."""
        self._calls.put(None)

    def _renew(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[[], object], threading.Event] | None]
        self._calls = queue.SimpleQueue()
        self._starting = threading.RLock()
        self._latest: dict[object, Callable[[], object]] = {}
        self._replacing = threading.RLock()
        self._started = False
        self._ident = 0

    def _call_if_latest(self, key: object, call: Callable[[], object]) -> None:
        with self._replacing:
            if self._latest.get(key) is not call:
                return
            del self._latest[key]
        call()

    def _start(self) -> None:
        self._started = True
        try:
            threading.Thread(target=self._run, name=self._name, daemon=True).start()
        except BaseException:
            self._started = False
            raise

    def _run(self) -> None:
        self._ident = threading.get_ident()
        while (item := self._calls.get()) is not None:
            call, done = item
            survive(self._name, call)
            done.set()

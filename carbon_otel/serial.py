"""Calls made one at a time, without a lock that a thread waits for.

Garbage collection may run the end of an abandoned generator, and so of its stage, between any two instructions,
and a signal handler may open a stage there. A thread that held a plain lock would then wait for itself.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from threading import get_ident
from typing import Any

from carbon_otel.fork import renew_after_fork
from carbon_otel.guard import log_fault


class Serial:
    """Makes calls in the order in which they come in, never two at once.

    A call that comes in during another one, in any thread, is made right after it by the thread that is busy.
    """

    def __init__(self, what: str) -> None:
        """`what` names the calls in the log, where their exceptions end."""
        self._what = what
        self._renew()
        renew_after_fork(self._renew)

    def run(self, call: Callable[..., object], *args: Any) -> None:
        """Make the call, or leave it to the thread that is making one."""
        self._waiting.append((call, args))
        here = get_ident()
        if here in self._inside:
            return
        try:
            self._inside.add(here)
            # Looked at again after each release: a call may have come in just before.
            while self._waiting and self._busy.acquire(blocking=False):
                while self._waiting:
                    waiting, its_args = self._waiting.popleft()
                    try:  # not `contain`, which takes a tenth of a microsecond
                        waiting(*its_args)
                    except Exception as fault:  # noqa: BLE001 - no internal fault may reach the user's program
                        log_fault(self._what, fault)
                self._busy.release()
            self._inside.discard(here)
        except BaseException:  # it may have come just before or after the lock was taken
            with contextlib.suppress(RuntimeError):
                self._busy.release()
            self._inside.discard(here)
            raise

    def _renew(self) -> None:
        """In a forked child: the thread that was busy does not exist there, and its calls are the parent's."""
        self._waiting: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        # An RLock knows its holder: no other thread's lock is released after an exception.
        self._busy = threading.RLock()
        self._inside: set[int] = set()

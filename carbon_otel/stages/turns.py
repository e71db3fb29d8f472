"""One change of the books at a time, whatever interrupts it.

Threads take turns by a lock. A garbage collection or a signal handler may ask for another change on the thread
that is busy, where a wait would never end: such a call is put off, and made when the busy call has ended. An
exception may arrive between any two bytecodes; `give_up` then releases the lock and has the books restored.

    try:
        turns.busy.add(here)
        ...                   # reads the hardware
        turns.take(here)
        ...                   # changes the books
        turns.give()
        ...                   # tells the sinks
        turns.busy.discard(here)
    except BaseException:
        turns.give_up(here)
        raise

No `with`: it would not release the lock if an exception came just before the release.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from threading import get_ident

from carbon_otel.fork import renew_after_fork
from carbon_otel.guard import log_fault


class Turns:
    """`busy` are the threads within a call; `late` are the calls that were put off.

    A late call may be made twice, and by another thread.
    """

    def __init__(self, restore: Callable[[], None]) -> None:
        """`restore` mends what is changed, under the lock. It may be called again after an exception in it."""
        self._restore = restore
        self._holder: int | None = None
        self._renew()
        renew_after_fork(self._renew)

    def take(self, here: int) -> None:
        """Wait for the lock. The calling thread, `here`, is busy, and does not hold it."""
        self._lock.acquire()
        self._holder = here
        if self._broken:
            self._mend()

    def give(self) -> None:
        """Release the lock."""
        self._holder = None
        self._lock.release()

    def give_up(self, here: int) -> None:
        """After an exception: release the lock if this thread holds it, and make the late calls."""
        try:
            if self._holder == here:
                self._broken = True
                self._mend()
        finally:
            if self._holder == here:
                self._holder = None
            with contextlib.suppress(RuntimeError):  # this thread does not hold it
                self._lock.release()
            self.busy.discard(here)
        self.make_late_calls()

    def make_late_calls(self) -> None:
        """Make the calls that were put off, and those that an exception has broken off."""
        here = get_ident()
        if here in self._making or here in self.busy:
            return
        try:
            self._making.add(here)
            for _ in range(len(self.late)):
                call = self.late[0]
                try:
                    call()
                except Exception as fault:  # noqa: BLE001 - it must not be the fault of the call that makes it
                    log_fault("a call that was put off", fault)
                # Not before, since an exception may arrive between the two.
                with contextlib.suppress(ValueError):
                    self.late.remove(call)
        except IndexError:  # another thread was first
            return
        finally:
            self._making.discard(here)

    def _mend(self) -> None:
        self._restore()
        self._broken = False

    def _renew(self) -> None:
        """In a forked child: the thread that held the lock does not exist there."""
        self._lock = threading.RLock()
        self._holder = None
        self._broken = False
        self.busy: set[int] = set()
        self._making: set[int] = set()
        self.late: deque[Callable[[], object]] = deque()

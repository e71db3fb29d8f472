"""One change of the books at a time, whatever interrupts it.

Threads take turns by a lock. A garbage collection or a signal handler may ask for another change on the thread
that is busy, where a wait would never end: such a call is put off, and made when the busy call has ended. An
exception may arrive between any two bytecodes; `give_up` then releases the lock and has the books restored. If
a second one arrives before it has done so, whoever takes the next turn restores them, and replaces the lock if it
was not released.

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
import re
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable
from threading import get_ident
from types import CodeType, FrameType
from typing import Final

from carbon_otel.fork import renew_after_fork
from carbon_otel.guard import log_fault

# A turn takes less, even with thousands of open stages.
_PATIENCE_S: Final = 1.0


class Turns:
    """`busy` are the threads within a call; `late` are the calls that were put off.

    A late call may be made twice, and by another thread.
    """

    _lock: threading.RLock

    def __init__(self, restore: Callable[[], None], calls: Iterable[CodeType]) -> None:
        """`calls` are the functions that take turns.

        `restore` mends what is changed, under the lock. It may be called again after an exception in it.
        """
        self._restore = restore
        self._calls = frozenset(calls)
        self._holder: int | None = None
        self._changing = False
        self._renew()
        renew_after_fork(self._renew)

    def within(self, here: int) -> bool:
        """Whether the busy thread is still within a call; for the function that asks, which is not counted.

        A second exception may have kept a call from noting its end. It is then given up now.
        """
        if self._is_call(sys._getframe(2)):  # noqa: SLF001 - `inspect` reads source files for it
            return True
        self.give_up(here)
        return False

    def take(self, here: int) -> None:
        """Wait for the lock. The calling thread, `here`, is busy, and does not hold it."""
        if not self._lock.acquire(blocking=False):
            self._wait()
        self._holder = here
        if self._changing:  # an exception has broken off the last change
            self._restore()
        self._changing = True

    def _wait(self) -> None:
        lock = self._lock
        while not lock.acquire(timeout=_PATIENCE_S):
            if self._is_left(lock):
                # Of several threads that see this, all go on with the same lock.
                self._lock = self._next.setdefault(lock, threading.RLock())
            lock = self._lock

    def _is_left(self, lock: object) -> bool:
        """Whether the thread that holds the lock is over, or no longer within a call.

        Only the text of the lock tells which thread that is. Elsewhere than in CPython it may not.
        """
        found = re.search(r"owner=(\d+) ", repr(lock))
        if found is None:
            return False
        owner = int(found[1])
        frame = sys._current_frames().get(owner)  # noqa: SLF001 - the only way to look at another thread
        if owner == 0 or self._is_call(frame):
            return False
        self.busy.discard(owner)
        return True

    def _is_call(self, frame: FrameType | None) -> bool:
        """Whether the frame is that of a call, or of what it has called."""
        while frame is not None:
            if frame.f_code in self._calls:
                return True
            frame = frame.f_back
        return False

    def give(self) -> None:
        """Release the lock."""
        self._changing = False
        self._holder = None
        self._lock.release()

    def give_up(self, here: int) -> None:
        """After an exception: release the lock if this thread holds it, and make the late calls."""
        try:
            if self._holder == here and self._changing:
                self._restore()
                self._changing = False
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

    def _renew(self) -> None:
        """In a forked child: the thread that held the lock does not exist there."""
        self._lock = threading.RLock()
        # The locks that were left, each with the one that has replaced it.
        self._next: dict[object, threading.RLock] = {}
        self._holder = None
        self._changing = False
        self.busy: set[int] = set()
        self._making: set[int] = set()
        self.late: deque[Callable[[], object]] = deque()

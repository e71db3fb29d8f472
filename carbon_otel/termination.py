"""SIGTERM ends a measured process as before, but what it has measured is sent first.

Kubernetes, systemd, Slurm and `multiprocessing.Pool` end a process by SIGTERM, without `atexit`. Where the default
action stands, `install` puts a handler in its place. It has the measurement ended, for `BOUND_S` seconds at most;
then the default action ends the process, and its parent sees the same status. A second SIGTERM ends it at once.

The program stops at the signal, as before: the handler keeps the main thread waiting. If it has interrupted code
that may hold a lock which the end needs, that code continues meanwhile.

Python calls a handler only when the main thread is between two bytecodes, and a call of a library in C may take
minutes. So a thread of ours learns of the signal by `signal.set_wakeup_fd`, and it ends the process. A call that
does not release the interpreter's lock delays it. Where the application has set such a descriptor, or gevent has
replaced the threads, no handler is installed. If the program closes all descriptors, the handler does without.

`signal.getsignal(SIGTERM)` still returns SIG_DFL. Programs ask it whether somebody else handles the signal, call
an earlier handler from theirs, or put it back: all of them do what they did before. A handler that the application
sets replaces ours.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import os
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable
from types import BuiltinFunctionType, CodeType, FrameType
from typing import Any, Final

from carbon_otel import clock
from carbon_otel.descriptors import file_of
from carbon_otel.fork import renew_after_fork
from carbon_otel.guard import survive

BOUND_S = 2.0
# The part of it in which the measurement has to end; the rest is for the death.
_SHARE: Final = 0.9

# The functions behind `signal.signal` and `signal.getsignal`, which translate numbers to SIG_DFL and SIG_IGN.
_signal: Any = importlib.import_module("_signal")
_thread: Any = importlib.import_module("_thread")
_WAKE: Final = 0
_CREDENTIALS: Final = struct.Struct("3i")  # process, user and group
# The end may need their locks: to collect telemetry, to log, to import a module.
_LOCKING: Final = frozenset({"carbon_otel", "opentelemetry", "logging", "importlib"})


def install(end: Callable[[float], object], normal_end: CodeType | None = None) -> None:
    """Have `end` called with its number of seconds on SIGTERM, before the process ends.

    `normal_end` is the function that `end` waits for if it is under way: it continues, whatever it has called.

    Does nothing outside of the main thread, or of Linux; where the application, or whoever started it, has chosen
    another action than the default one; in the first process of a container, for which the kernel ignores the
    default action; and where gevent or eventlet has replaced threads by greenlets, none of which would run while
    the handler waits.
    """
    global _watch
    if not hasattr(socket, "SO_PASSCRED") or os.getpid() == 1 or not _in_main_thread():
        return
    if not isinstance(_thread.start_new_thread, BuiltinFunctionType):
        return
    present = _signal.getsignal(signal.SIGTERM)
    if present is _handler and _watch is not None:
        _watch.end, _watch.normal_end = end, normal_end
    elif present == signal.SIG_DFL:
        _set_action()
        watch = _Watch(end, normal_end)
        if watch.listen():
            _watch = watch
            _signal.signal(signal.SIGTERM, _handler)
        else:
            watch.close()


def remove() -> None:
    """Restore the default action, if this is the main thread. If SIGTERM is ending the process, wait for that."""
    global _watch
    watch = _watch
    if watch is None:
        return
    if watch.asked:
        watch.over.wait(BOUND_S)
        _die()
    elif _in_main_thread():
        if _signal.getsignal(signal.SIGTERM) is _handler:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        watch.close()
        _watch = None


def give_way() -> None:
    """Leave `signal.set_wakeup_fd` to a library that warns where it is set; the handler does without.

    Raises ValueError outside of the main thread, if it is set.
    """
    global _gives_way
    _gives_way = True
    if _watch is not None:
        _watch.listen_no_more()


class _Handler(int):
    """The handler. As an int it is SIG_DFL, and this is what `signal.getsignal` returns for it."""

    def __call__(self, number: int, frame: FrameType | None) -> None:
        watch = _watch
        # In a forked child, this may be before its renewal.
        if watch is None or watch.pid != os.getpid() or watch.handled:
            _die()
            return
        watch.handled = watch.asked = True
        if not watch.wake() and not _started(watch.end_process, "carbon_otel sigterm"):
            watch.over.set()
        if not (_may_hold_a_lock(frame) or _is_within(watch.normal_end, frame)):
            watch.over.wait(BOUND_S)
            _die()


class _Watch:
    """A thread that ends the process after a SIGTERM, whatever the main thread does.

    `handled` says that the handler was called, `asked` that the process is ending, `over` that the measurement has
    ended.
    """

    def __init__(self, end: Callable[[float], object], normal_end: CodeType | None) -> None:
        self.end = end
        self.normal_end = normal_end
        self.pid = os.getpid()
        self.handled = self.asked = False
        self.over = threading.Event()
        self._inbox, self._outbox = socket.socketpair()
        # A forked child writes to the same socket until it is renewed, so each byte comes with its sender.
        self._inbox.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._outbox.setblocking(False)
        self._files = {each: file_of(each.fileno()) for each in (self._inbox, self._outbox)}
        threading.Thread(target=self._run, name="carbon_otel sigterm", daemon=True).start()

    def listen(self) -> bool:
        """Have the number of each signal written to the socket; False if the application has set a descriptor."""
        if _gives_way:
            return True
        other = signal.set_wakeup_fd(self._outbox.fileno(), warn_on_full_buffer=False)
        if other != -1:
            signal.set_wakeup_fd(other)
        return other == -1

    def listen_no_more(self) -> None:
        """Undo `listen`."""
        present = signal.set_wakeup_fd(-1)
        if present != -1 and not (present == self._outbox.fileno() and self._is_open(self._outbox)):
            # Python refuses a closed descriptor and an ordinary file: these have got the number of the socket.
            with contextlib.suppress(OSError, ValueError):
                signal.set_wakeup_fd(present)

    def wake(self) -> bool:
        """Wake the thread, also if the descriptor is another's by now; False if its socket is closed."""
        if not self._is_open(self._outbox):
            return False
        try:
            self._outbox.send(bytes([_WAKE]))
        except BlockingIOError:
            return True  # full of signals, which wake it too
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Let the thread end; not after it has received a signal."""
        self.listen_no_more()
        self._close(self._outbox)

    def forget(self) -> None:
        """In a forked child, which has no such thread."""
        self.close()
        self._close(self._inbox)

    def is_lost(self) -> bool:
        """Whether the program has closed the socket to which Python writes."""
        return self._outbox.fileno() != -1 and not self._is_open(self._outbox)

    def end_process(self) -> None:
        """Have the measurement ended, and then, at the end of the time or at a second signal, the process."""
        self.asked = True
        deadline = clock.monotonic() + BOUND_S
        if not _started(self._end, "carbon_otel end"):
            self._end()  # the main thread is in its exit, and waits no longer than `BOUND_S`
        again = False
        while not (again or self.over.is_set()) and (left_s := deadline - clock.monotonic()) > 0:
            received = self._receive(left_s)
            again = signal.SIGTERM in (received or b"")
            if received is None:
                self.over.wait(left_s)
        _die()

    def _is_open(self, end: socket.socket) -> bool:
        return self._files[end] is not None and file_of(end.fileno()) == self._files[end]

    def _close(self, end: socket.socket) -> None:
        """Close the socket, not a file of the program that has got its number."""
        if self._is_open(end):
            end.close()
        else:
            end.detach()

    def _run(self) -> None:
        while not (received := self._receive()) or not self._is_asked(received):
            if received is None:
                self._close(self._inbox)
                if self.is_lost():
                    # Only the main thread may change the descriptor to which Python writes.
                    ctypes.pythonapi.Py_AddPendingCall(_for_main_thread(), None)
                return
        self.end_process()

    def _receive(self, timeout_s: float | None = None) -> bytes | None:
        """The numbers of signals that have reached this process; None if one of the sockets is closed."""
        if not self._is_open(self._inbox):
            return None
        try:
            self._inbox.settimeout(timeout_s)
            numbers, ancillary, _, _ = self._inbox.recvmsg(64, socket.CMSG_SPACE(_CREDENTIALS.size))
        except TimeoutError:
            return b""
        except OSError:
            return None  # closed since the check
        if not numbers:
            return None
        senders = {_CREDENTIALS.unpack(data)[0] for _, _, data in ancillary}
        return numbers if senders == {self.pid} else b""

    @staticmethod
    def _is_asked(numbers: bytes) -> bool:
        """Whether the process has to end; not if the application has set a handler since `install`."""
        present = _signal.getsignal(signal.SIGTERM)
        return _WAKE in numbers or (signal.SIGTERM in numbers and present is _handler)

    def _end(self) -> None:
        survive("ending the measurement", functools.partial(self.end, BOUND_S * _SHARE))
        self.over.set()
        self.wake()


def _leave_lost_socket(_: object) -> int:
    """In the main thread: Python would report each signal, or write it to a file of the program."""
    if _watch is not None and _watch.is_lost():
        _watch.listen_no_more()
    return 0


@functools.cache
def _for_main_thread() -> Any:
    """`_leave_lost_socket` as a function of C, which must not be collected."""
    return ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(_leave_lost_socket)


def _started(target: Callable[[], object], name: str) -> bool:
    """Start a thread; False where Python 3.12 does not, at the exit of the program."""
    try:
        threading.Thread(target=target, name=name, daemon=True).start()
    except RuntimeError:
        return False
    return True


def _may_hold_a_lock(frame: FrameType | None) -> bool:
    """Whether the innermost code that is not Python's own, or that code, is such that its locks may be needed."""
    while frame is not None:
        package = str(frame.f_globals.get("__name__")).partition(".")[0]
        if package in _LOCKING:
            return True
        if package not in sys.stdlib_module_names:
            return False
        frame = frame.f_back
    return False


def _is_within(code: CodeType | None, frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code is code:
            return True
        frame = frame.f_back
    return False


def _in_main_thread() -> bool:
    return threading.get_ident() == threading.main_thread().ident


@functools.cache
def _set_action() -> Any:
    """The function of Python that sets the action of a signal; unlike `signal.signal`, on any thread."""
    prototype = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
    return prototype(("PyOS_setsig", ctypes.pythonapi))


def _die() -> None:
    """End the process by the default action of SIGTERM."""
    _set_action()(signal.SIGTERM, None)
    os.kill(os.getpid(), signal.SIGTERM)


_handler: Final = _Handler(signal.SIG_DFL)
_watch: _Watch | None = None
_gives_way = False


def _renew() -> None:
    """A forked child has the default action until it measures itself: no thread of ours watches there."""
    global _watch
    if _watch is not None:
        if _signal.getsignal(signal.SIGTERM) is _handler:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _watch.forget()
        _watch = None


renew_after_fork(_renew)

# Threads that have blocked the signal for their fork.
_blocking: Final[set[int]] = set()


def _before_fork() -> None:
    """Python forgets in the child which signals have arrived before its renewal: let this one wait for it."""
    if _watch is not None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        if signal.SIGTERM not in before:
            _blocking.add(threading.get_ident())


def _after_fork() -> None:
    if threading.get_ident() in _blocking:
        _blocking.discard(threading.get_ident())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


if hasattr(os, "register_at_fork"):  # after `carbon_otel.fork`, so in a child after the renewal
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)

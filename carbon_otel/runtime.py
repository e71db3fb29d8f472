"""The one measurement of this process: its start, its end, and what a fork makes of it."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from carbon_otel.guard import contain, forget

if TYPE_CHECKING:
    from carbon_otel.config import Settings
    from carbon_otel.footprint import Footprint


@dataclass(frozen=True, slots=True)
class Options:
    """The arguments of `instrument()`; enough to begin again in a forked child."""

    settings: Settings
    tracer_provider: Any = None
    meter_provider: Any = None


class Measurement(Protocol):
    """What this module starts and ends."""

    @property
    def options(self) -> Options: ...

    def begin(self) -> None: ...

    def end(self) -> None:
        """Close what is open, and send what is pending, within the exit budget."""

    def footprint(self) -> Footprint: ...

    def flush(self, timeout_s: float) -> bool: ...

    def farewell(self, timeout_s: float) -> bool:
        """The process may end now without `atexit`: end what no block ends, and flush."""

    def abandon(self) -> None:
        """In a forked child: leave everything to the parent."""

    def heir(self) -> Measurement:
        """In a forked child: a measurement of the child's own, with the same options and patches."""


_active: Measurement | None = None
_forked_from: Measurement | None = None
_lock = threading.RLock()


def active() -> Measurement | None:
    """The measurement of this process, if any; in a forked child its own, begun at its first stage."""
    return _active if _forked_from is None else _begin_in_child()


def start(options: Options, make: Callable[[Options], Measurement]) -> None:
    """Begin measuring. A measurement that is running goes on if the options are the same, else it is replaced."""
    global _active
    running = active()
    if running is not None and running.options == options:
        return
    stop()
    with _lock:
        if _active is not None:
            return  # another thread has begun one
        forget()
        _active = make(options)
        _active.begin()


def stop() -> None:
    """End the measurement, if there is one."""
    global _active, _forked_from
    with _lock:
        ended, _active = _active or _forked_from, None
        _forked_from = None
    # Not under the lock: it takes seconds where no backend answers.
    if ended is not None:
        ended.end()


def _begin_in_child() -> Measurement | None:
    global _active, _forked_from
    with _lock:
        parent, _forked_from = _forked_from, None
        if parent is None:
            return _active
        heir = contain("measuring in a forked process", parent.heir, None)
        if heir is not None:
            _active = heir
            heir.begin()
            _end_with_multiprocessing()
    return _active


def _after_fork_in_child() -> None:
    global _active, _forked_from, _lock
    _lock = threading.RLock()
    if _active is not None:
        # The parent goes on measuring; this copy of its measurement does nothing more.
        contain("leaving the parent's measurement", _active.abandon, None)
        _forked_from, _active = _active, None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


_finalized_in = 0


def _end_with_multiprocessing() -> None:
    """Multiprocessing workers exit by `os._exit`, without `atexit`, but they run its finalizers."""
    global _finalized_in
    util: Any = sys.modules.get("multiprocessing.util")
    if util is not None and _finalized_in != os.getpid():
        _finalized_in = os.getpid()
        util.Finalize(None, stop, exitpriority=0)


_registered = False


def end_at_exit() -> None:
    """Register the end of the measurement with `atexit`: once, and after the providers' own registration."""
    global _registered
    if not _registered:
        _registered = True
        atexit.register(stop)
    process: Any = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        _end_with_multiprocessing()

"""The measurement of this process: its start, its end, and its late begin in a child process.

A process that was forked, or that multiprocessing is starting, may only compute for its parent, which then pays
for it. Its measurement begins at its first stage.
"""

from __future__ import annotations

import atexit
import importlib
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from carbon_otel import clock, termination
from carbon_otel.fork import renew_after_fork
from carbon_otel.guard import contain, forget

if TYPE_CHECKING:
    from carbon_otel.config import Settings
    from carbon_otel.footprint import Footprint
    from carbon_otel.sinks import Sink


@dataclass(frozen=True, slots=True)
class Options:
    """The arguments of `instrument()`; enough to begin again in a forked child.

    `given` are the settings that the call names, which a running measurement takes over.
    """

    settings: Settings
    tracer_provider: Any = None
    meter_provider: Any = None
    given: frozenset[str] = field(default=frozenset(), compare=False)


class Origin(Protocol):
    """What a measurement begins from in a child process, at the first stage there."""

    @property
    def options(self) -> Options: ...

    def begin(self) -> None: ...

    def disconnect(self) -> None:
        """Undo every patch."""

    def in_child(self) -> Measurement:
        """A new measurement with these options and patches."""


class Measurement(Origin, Protocol):
    """The measurement that this module starts and ends."""

    def change(self, later: Options) -> None:
        """Take over the settings that a later call of `instrument()` names."""

    def end(self, *, in_worker: bool = False) -> None:
        """Close all open stages and send all pending telemetry, within the exit budget.

        `in_worker` says that the process ends without `atexit`, which would shut down the application's providers.
        """

    def end_for_good(self, timeout_s: float) -> None:
        """As `end`, in a process in which nothing runs afterwards: no `atexit`, no end of a run by MLflow."""

    @property
    def sinks(self) -> Iterable[Sink]: ...

    def add_sink(self, sink: Sink) -> None: ...

    def footprint(self) -> Footprint: ...

    def flush(self, timeout_s: float) -> bool: ...

    def prepare_exit(self, timeout_s: float) -> bool:
        """Close the stages that no block closes, and flush: the process may now end without `atexit`."""

    def flush_application(self, timeout_s: float) -> None:
        """Flush the application's providers, also after the end."""


_active: Measurement | None = None
# Whether a measurement is being started, and the starts and ends that a signal handler asks for meanwhile.
_changing = False
_late: deque[Callable[[], None]] = deque()
# In a child process, before its first stage.
_origin: Origin | None = None
# The last measurement that was stopped, and whether it has ended.
_stopped: tuple[Measurement, threading.Event] | None = None
_lock = threading.RLock()


def active() -> Measurement | None:
    """The measurement of this process, if any. A child process has its own, begun at its first stage."""
    return _active if _origin is None else _begin_in_child()


def begun() -> Measurement | None:
    """The measurement of this process, if it has one; does not begin one in a child process."""
    return _active


def begun_or_origin() -> Origin | None:
    """The measurement of this process, or else what it begins from."""
    return _active or _origin


def start(options: Options, make: Callable[[Options], Measurement]) -> None:
    """Begin measuring. A running measurement goes on, and takes over the settings that the call names."""
    global _active, _changing
    with _lock:
        if _changing:
            _late.append(partial(start, options, make))
            return
    running = active()
    if running is not None:
        _change(running, options)
        return
    with _lock:
        if _active is not None:
            return  # another thread has begun a measurement
        try:
            _changing = True
            forget()
            _active = make(options)
            _active.begin()
            _watch_for_sigterm(options)
        finally:
            _changing = False
    while _late:
        _late.popleft()()


def _change(running: Measurement, options: Options) -> None:
    watched = running.options.settings.flush_on_sigterm
    running.change(options)
    if running.options.settings.flush_on_sigterm is not watched:
        termination.remove() if watched else _watch_for_sigterm(running.options)


def start_at_first_stage(options: Options, make: Callable[[Options], Origin]) -> None:
    """In a process that multiprocessing is starting: begin to measure as in a forked child."""
    global _origin
    running, waiting = _active, _origin
    if running is not None:
        _change(running, options)
        return
    if waiting is not None and waiting.options == options:
        return
    stop()
    with _lock:
        if _active is None and _origin is None:
            _origin = make(options)
            _origin.begin()


def stop(*, in_worker: bool = False) -> None:
    """End the measurement, if there is one; `in_worker` as in `Measurement.end`."""
    global _active, _origin, _stopped
    with _lock:
        if _changing:
            _late.append(partial(stop, in_worker=in_worker))
            return
        ended, parent = _active, _origin
        _active = _origin = None
        over = threading.Event()
        if ended is not None:
            _stopped = ended, over
    # Outside the lock: this takes seconds if no backend answers.
    if ended is not None:
        try:
            ended.end(in_worker=in_worker)
        finally:
            over.set()
    elif parent is not None:
        parent.disconnect()
    termination.remove()
    with _lock:
        if _stopped is not None and _stopped[1] is over:
            _stopped = None  # nobody asks for it any more


def _watch_for_sigterm(options: Options) -> None:
    if options.settings.flush_on_sigterm:
        contain("watching for SIGTERM", None, termination.install, _end_for_good, stop.__code__)


def _end_for_good(timeout_s: float) -> None:
    """End the measurement before SIGTERM ends the process, or wait for an end that has begun."""
    global _active
    with _lock:
        if _changing:
            return  # nothing is measured yet
        ended, _active = _active, None
        under_way = _stopped
    if ended is not None:
        ended.end_for_good(timeout_s)
    elif under_way is not None:
        stopped, over = under_way
        deadline = clock.monotonic() + timeout_s
        over.wait(timeout_s)
        # At the exit of the program, its own end would have come next.
        stopped.flush_application(max(0.0, deadline - clock.monotonic()))


def _begin_in_child() -> Measurement | None:
    global _active, _origin
    with _lock:
        parent, _origin = _origin, None
        if parent is None:
            return _active
        child = contain("measuring in a child process", None, parent.in_child)
        if child is not None:
            _active = child
            child.begin()
            _watch_for_sigterm(child.options)
            _end_with_multiprocessing()
    return _active


def _after_fork_in_child() -> None:
    global _active, _changing, _origin, _lock, _stopped
    _lock, _changing, _stopped = threading.RLock(), False, None
    _late.clear()
    if _active is not None:
        # The parent continues to measure; this copy of its measurement does nothing more.
        _origin, _active = _active, None


renew_after_fork(_after_fork_in_child)


_finalized_in = 0
# `multiprocess` is a copy of the package for other pickles.
_PACKAGES: Final = ("multiprocessing", "multiprocess")


def _end_with_multiprocessing() -> None:
    """Multiprocessing workers exit by `os._exit`, without `atexit`, but they run its finalizers."""
    global _finalized_in
    utils: list[Any] = [sys.modules[f"{each}.util"] for each in _PACKAGES if f"{each}.util" in sys.modules]
    if utils and _finalized_in != os.getpid():
        _finalized_in = os.getpid()
        for util in utils:
            util.Finalize(None, stop, kwargs={"in_worker": True}, exitpriority=0)


_registered = False


def end_at_exit() -> None:
    """Register the end of the measurement with `atexit`: once, and after the providers' own registration."""
    global _registered
    if not _registered:
        _registered = True
        atexit.register(stop)
    for package in _PACKAGES:
        process: Any = sys.modules.get(f"{package}.process")
        if process is None:
            continue
        if process.parent_process() is not None:
            _end_with_multiprocessing()
        elif getattr(process.current_process(), "_inheriting", False):
            # A process that is not forked imports its main module first, and then drops all finalizers.
            util: Any = importlib.import_module(f"{package}.util")
            util.register_after_fork(_process_begins, _process_begins)


def being_started() -> bool:
    """Whether multiprocessing is starting this process, without a fork, and now imports its modules."""
    processes: list[Any] = [sys.modules.get(f"{package}.process") for package in _PACKAGES]
    return any(
        getattr(each.current_process(), "_inheriting", False) for each in processes if each is not None
    )


def _process_begins(_: object) -> None:
    global _finalized_in
    if _active is not None:
        _finalized_in = 0
        _end_with_multiprocessing()

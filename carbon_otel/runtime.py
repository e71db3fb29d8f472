"""Whether this process is being measured: the one session, its start, its end, and what a fork makes of it."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from carbon_otel.fork import renew_after_fork
from carbon_otel.guard import contain, forget

if TYPE_CHECKING:
    from carbon_otel.config import Settings
    from carbon_otel.mlflow.runs.tracking_hook import RunEvents
    from carbon_otel.mlflow.standalone.inference import Serving
    from carbon_otel.session import Session


@dataclass(frozen=True, slots=True)
class Options:
    """What `instrument()` was told; enough to begin again in a forked child."""

    settings: Settings
    tracer_provider: Any = None
    meter_provider: Any = None


_session: Session | None = None
_forked_from: Session | None = None
_lock = threading.RLock()


def active() -> Session | None:
    """The session of this process, if any; in a forked child its own, begun at its first stage."""
    return _session if _forked_from is None else _begin_in_child()


def start(options: Options) -> None:
    """Begin measuring. A session that is running goes on if the options are the same, else it is replaced."""
    global _session
    with _lock:
        running = active()
        if running is not None:
            if running.options == options:
                return
            stop()
        forget()
        from carbon_otel.session import Session

        _session = Session(options)
        _session.begin(_run_events, _serving)


def stop() -> None:
    """End the session, if one is running."""
    global _session, _forked_from
    with _lock:
        session, parent = _session, _forked_from
        _session = _forked_from = None
        if session is not None:
            session.end()
        elif parent is not None:
            parent.hook.remove()


def _run_events() -> RunEvents | None:
    session = active()
    return session.mlflow if session is not None else None


def _serving() -> Serving | None:
    session = active()
    return session.serving if session is not None else None


def _begin_in_child() -> Session | None:
    global _session, _forked_from
    with _lock:
        parent, _forked_from = _forked_from, None
        if parent is None:
            return _session
        session = contain("measuring in a forked process", None, type(parent), parent.options, parent.hook)
        if session is not None:
            _session = session
            session.begin(_run_events, _serving)
            _end_with_multiprocessing()
    return _session


def _after_fork_in_child() -> None:
    global _session, _forked_from, _lock
    _lock = threading.RLock()
    if _session is not None:
        # The parent goes on measuring; this copy of its session does nothing more.
        _forked_from, _session = _session, None


renew_after_fork(_after_fork_in_child)


_finalized_in = 0


def _end_with_multiprocessing() -> None:
    """Its workers leave by `os._exit`, without `atexit`, but run the finalizers of multiprocessing."""
    global _finalized_in
    util: Any = sys.modules.get("multiprocessing.util")
    if util is not None and _finalized_in != os.getpid():
        _finalized_in = os.getpid()
        util.Finalize(None, stop, exitpriority=0)


_registered = False


def end_at_exit() -> None:
    """Register the end of the session with `atexit`: once, and after the providers' own registration."""
    global _registered
    if not _registered:
        _registered = True
        atexit.register(stop)
    process: Any = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        _end_with_multiprocessing()

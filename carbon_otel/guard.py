"""Keeps our own faults out of the user's program, and logs each kind of fault once.

    footprint = contain("computing a footprint", NOT_MEASURED, session.footprint, stage)

    with guarded("removing a patch"):
        undo()

Only `Exception` is contained: KeyboardInterrupt, SystemExit and a task's cancellation pass through.

Log records are cleaned: messages and tracebacks quote addresses with passwords, and names of other people's runs.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Final, ParamSpec, TypeVar

from carbon_otel.text import one_line, printable, shown


def clean(record: logging.LogRecord) -> bool:
    """Hide secrets, line breaks and escapes in a log record; a filter that keeps every record.

    A traceback that had any becomes text. Handlers that read `exc_info` themselves then find none.
    """
    try:
        message = record.getMessage()
    except Exception:  # noqa: BLE001 - a record of another library; logging reports its fault where it is written
        return True
    cleaned = shown(message)
    if cleaned != message:
        record.msg, record.args = cleaned, None
    if record.exc_info and record.exc_info[1] is not None:
        trace = "".join(traceback.format_exception(record.exc_info[1])).rstrip("\n")
        cleaned = "\n".join(map(one_line, printable(trace).split("\n")))
        if cleaned != trace:
            record.exc_info, record.exc_text = None, cleaned
    return True


logger = logging.getLogger("carbon_otel")
logger.addFilter(clean)

_P = ParamSpec("_P")
_T = TypeVar("_T")
_D = TypeVar("_D")

# Messages that were logged, by template and subject. Bounded, since a subject can be a path or the id of a run.
_MOST_LOGGED: Final = 500
_logged: Final[dict[tuple[str, object], object]] = {}


def log_once(
    message: str, *arguments: object, about: object = None, exc_info: BaseException | None = None
) -> None:
    """Log a warning, once per `message` and `about` since `forget()`.

    `message` is a constant template for `arguments`, as logging takes them. `about` is hashable and
    distinguishes two warnings of one template: the id of a device, for example.
    """
    first = object()
    # One atomic step instead of a lock, which a fork could leave locked in the child.
    if _logged.setdefault((message, about), first) is not first:
        return
    if len(_logged) <= _MOST_LOGGED:
        logger.warning(message, *arguments, exc_info=exc_info)
    elif len(_logged) == _MOST_LOGGED + 1:
        logger.warning("%d kinds of warnings were logged; further kinds are not", _MOST_LOGGED)
    else:
        del _logged[message, about]


def forget() -> None:
    """Let every warning be logged again, in a new session."""
    _logged.clear()


def log_fault(task: str, fault: Exception) -> None:
    """Log a contained exception, once per `task`."""
    log_once("%s failed: %r; the program continues", task, fault, about=task, exc_info=fault)


def contain(
    task: str, default: _D, function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs
) -> _T | _D:
    """Return `function(*args, **kwargs)`; if that raises, log the fault under `task` and return the default."""
    try:
        return function(*args, **kwargs)
    except Exception as fault:  # noqa: BLE001 - no internal fault may reach the user's program
        log_fault(task, fault)
        return default


class guarded:  # noqa: N801 - used like a function, as contextlib's managers are
    """Logs an exception of the block under `task` and suppresses it. For a single call `contain` is cheaper."""

    __slots__ = ("_task",)

    def __init__(self, task: str) -> None:
        self._task = task

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(fault, Exception):
            return False
        log_fault(self._task, fault)
        return True

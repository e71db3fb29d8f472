"""Keeps our own faults out of the user's program, and logs each kind of fault once.

    footprint = contain("computing a footprint", NOT_MEASURED, session.footprint, stage)

    with guarded("removing a patch"):
        undo()

Only faults of our own are contained. An exception that arrives inside our code from outside passes through:
KeyboardInterrupt, SystemExit, a task's cancellation, and what a signal handler of the application raises, such as
the TimeoutError of a time limit. Code of ours that handles an OSError, for example, gives it to `pass_on` first.

Log records are cleaned: messages and tracebacks quote addresses with passwords, and names of other people's runs.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import sys
import traceback
from collections.abc import Callable
from types import CodeType, FrameType, TracebackType
from typing import Final, ParamSpec, TypeVar

from carbon_otel.text import hider, one_line, printable, shown


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

# What the exceptions of Python show besides their arguments.
_TEXTS: Final = ("strerror", "filename", "filename2", "reason", "msg")


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


# What was left undone at the recursion limit. There, a store into a dict is possible, and a call is not.
undone: Final[dict[str, bool]] = {}


def log_undone() -> None:
    """Log what was left undone at the recursion limit. For a tick, which runs on another stack."""
    while undone:
        task, _ = undone.popitem()
        log_once(
            "%s was given up: the program was within a few calls of the recursion limit, and goes on",
            task,
            about=task,
        )


def arrived(error: BaseException) -> bool:
    """Whether an exception is not the result of our own call, but arrived from outside while we ran.

    It, or its cause, is one of these:

    - anything but an `Exception`; and MemoryError: a program without memory must learn of it;
    - what a signal handler or a trace function raised. It was called with the frame that it interrupted, which no
      other function is;
    - what another thread raised here (PyThreadState_SetAsyncExc, as time limits for threads do): an exception that
      appears in a frame of ours, of a class that neither Python nor this package defines. A class of Python's own
      cannot be told from a fault.
    """
    for each in (error, error.__cause__):
        if each is not None and (
            not isinstance(each, Exception) or isinstance(each, MemoryError) or _interrupted(each)
        ):
            return True
    return False


def _interrupted(error: BaseException) -> bool:
    trace, before = error.__traceback__, None
    while trace is not None:
        frame = trace.tb_frame
        if before is not None and any(argument is before for argument in _arguments(frame)):
            return True
        before, trace = frame, trace.tb_next
    if before is None or not _is_ours(before.f_globals.get("__name__")):
        return False
    package = type(error).__module__.partition(".")[0]
    return not _is_ours(package) and package not in sys.stdlib_module_names


def _is_ours(module: object) -> bool:
    return isinstance(module, str) and module.partition(".")[0] == "carbon_otel"


def _arguments(frame: FrameType) -> list[object]:
    code: CodeType = frame.f_code
    names = list(code.co_varnames[: code.co_argcount])
    values = [frame.f_locals.get(name) for name in names]
    if code.co_flags & inspect.CO_VARARGS:
        more = frame.f_locals.get(code.co_varnames[code.co_argcount + code.co_kwonlyargcount])
        values += more if isinstance(more, tuple) else ()
    return values


def without_secrets(error: Exception) -> Exception:
    """The exception of another library without passwords and tokens, in its causes too.

    Consoles and handlers print all of it. Its class stays. One that cannot be changed becomes a RuntimeError.
    """
    hide = hider()
    found: dict[int, BaseException] = {}
    waiting: list[object] = [error]
    while waiting:
        each = waiting.pop()
        if not isinstance(each, BaseException) or id(each) in found:
            continue
        found[id(each)] = each
        waiting += (*each.args, each.__cause__, each.__context__)
        for name in ("args", *_TEXTS, *vars(each)):
            before = getattr(each, name, None)
            after = _hidden(before, hide)
            if after != before:
                with contextlib.suppress(AttributeError, TypeError):  # seen below
                    setattr(each, name, after)
    for each in found.values():
        if each.__cause__ is not None:
            each.__cause__ = _replaced(each.__cause__, hide)
        elif each.__context__ is not None:
            each.__context__ = _replaced(each.__context__, hide)
    return _replaced(error, hide)


def _hidden(value: object, hide: Callable[[str], str]) -> object:
    if isinstance(value, str):
        return hide(value)
    if isinstance(value, (tuple, list)) and type(value) in (tuple, list):
        return type(value)(_hidden(each, hide) for each in value)
    return value


def _replaced(error: _T, hide: Callable[[str], str]) -> _T | RuntimeError:
    text = f"{error} {error!r}"
    return error if hide(text) == text else RuntimeError(hide(f"{type(error).__name__}: {error}"))


def pass_on(error: BaseException) -> None:
    """Raise the exception again if it arrived from outside."""
    if arrived(error):
        raise error


def log_fault(task: str, fault: Exception) -> None:
    """Log an exception that is contained, once per `task`; raise it again if it arrived from outside."""
    pass_on(fault)
    log_once("%s failed: %r; the program continues", task, fault, about=task, exc_info=fault)


def contain(
    task: str, default: _D, function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs
) -> _T | _D:
    """Return `function(*args, **kwargs)`; if that raises, log the fault under `task` and return the default."""
    try:
        return function(*args, **kwargs)
    except RecursionError:
        undone[task] = True
        return default
    except Exception as fault:  # noqa: BLE001 - no internal fault may reach the user's program
        log_fault(task, fault)
        return default


def survive(task: str, function: Callable[[], object]) -> None:
    """Call a function that nobody waits for, such as the work of a thread of ours: every `Exception` ends here."""
    try:
        function()
    except Exception as fault:  # noqa: BLE001 - the thread continues
        log_once("%s failed: %r; the program continues", task, fault, about=task, exc_info=fault)


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
        if kind is RecursionError:
            undone[self._task] = True
            return True
        if not isinstance(fault, Exception):
            return False
        log_fault(self._task, fault)
        return True

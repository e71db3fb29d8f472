"""Who reads what a measurement says of itself, and where.

The lines go through `logging`, at level INFO. A program that has not configured `logging` would not show them, so
there they go to standard error, and no handler stays behind. That is only for a program that has called
`instrument()` itself: a library that does so puts nothing there.
"""

from __future__ import annotations

import inspect
import logging
import os
import select
import sys
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any, Final

from carbon_otel.batch_job import job_of
from carbon_otel.guard import logger
from carbon_otel.ranks import group
from carbon_otel.text import shown

_PACKAGES: Final = ("multiprocessing", "multiprocess")  # the second is a copy for other pickles
# The first is of pytest 8.2 and later; the second is there while a test runs.
_OF_PYTEST: Final = ("PYTEST_VERSION", "PYTEST_CURRENT_TEST")
# A pipe that nobody empties, and a terminal that the user has stopped, delay the exit no longer.
_PATIENCE_MS: Final = 100


def is_worker(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process works for another one that speaks for it: of a pool, or a rank other than 0."""
    rank, job = group.look(environment), job_of(environment)
    ranks = [each.rank for each in (rank, job.task if job is not None else None) if each is not None]
    return any(ranks) or any(
        package is not None and package.parent_process() is not None
        for package in (sys.modules.get(f"{name}.process") for name in _PACKAGES)
    )


def is_test(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether pytest runs this process, or has started it."""
    return any(name in environment for name in _OF_PYTEST)


def called_by_program() -> bool:
    """Whether the call comes from the main module, a notebook or a prompt, and not from a library."""
    caller = next((name for name in _callers() if name.partition(".")[0] != "carbon_otel"), "")
    return caller == "__main__"


def called_before_program() -> bool:
    """Whether the interpreter is starting, as under `carbon-otel run` and `opentelemetry-instrument`."""
    return "site" in _callers()


def say(text: str, *, on_terminal: bool) -> None:
    """Log a line; without any configuration of logging, write it to standard error if it may go there."""
    if logger.hasHandlers():
        logger.info("%s", text)
    elif on_terminal and _is_heard():
        _write(f"carbon_otel: {shown(text)}\n")


def _is_heard() -> bool:
    """Whether the levels are those that logging begins with, or lower ones."""
    silenced = logger.disabled or logging.root.manager.disable >= logging.INFO
    return not silenced and logger.level <= logging.INFO and logging.root.level <= logging.WARNING


def _write(text: str) -> None:
    stream: Any = sys.stderr
    if stream is None:
        return
    is_original = stream is sys.__stderr__  # and not that of a notebook, for example
    try:
        if not is_original:
            stream.write(text)
            stream.flush()
        elif _takes(stream.fileno()):
            # Not through the stream: what a broken pipe leaves in its buffer would make the exit code 120.
            os.write(stream.fileno(), text.encode(stream.encoding, "backslashreplace"))
    except (OSError, ValueError):
        pass  # it is closed: there is nobody to tell


def _takes(descriptor: int) -> bool:
    """Whether a line can be written without waiting for a reader."""
    if not hasattr(select, "poll"):
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(_PATIENCE_MS))


def _callers() -> Iterator[str]:
    """The modules of the calling functions, the innermost first."""
    frame: FrameType | None = inspect.currentframe()
    while frame is not None:
        yield str(frame.f_globals.get("__name__", ""))
        frame = frame.f_back

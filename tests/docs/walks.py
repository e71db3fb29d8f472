"""Which functions of the package are called and return, as `sys.setprofile` sees it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Literal, NamedTuple

import carbon_otel

PACKAGE = Path(carbon_otel.__file__).parent


class Event(NamedTuple):
    """A call of a function of the package, or its return. `file` is relative to the package."""

    kind: Literal["call", "return"]
    file: str
    function: str


@contextmanager
def recorded(*threads: str) -> Iterator[list[Event]]:
    """The events of this thread, and of threads started meanwhile whose names begin with one of `threads`."""
    events: list[Event] = []
    here = threading.current_thread().name
    prefix = f"{PACKAGE}/"

    def profile(frame: FrameType, kind: str, argument: Any) -> None:
        code = frame.f_code
        if kind not in ("call", "return") or not code.co_filename.startswith(prefix):
            return
        if threading.current_thread().name.startswith((here, *threads)):
            file = code.co_filename.removeprefix(prefix)
            events.append(Event(kind, file, code.co_name))  # type: ignore[arg-type]

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        yield events
    finally:
        sys.setprofile(None)
        threading.setprofile(None)

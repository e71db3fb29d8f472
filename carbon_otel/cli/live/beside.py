"""The live view of a program under `carbon-otel run --live`, beside its own output."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

from carbon_otel.cli.live import view
from carbon_otel.cli.live.area import Area
from carbon_otel.cli.live.viewer import Viewer, started_by
from carbon_otel.cli.output import lines_of, on_terminal, say

_LINES: Final = 8
_EVERY_S: Final = 1.0
_LOG_EVERY_S: Final = 60.0
_ANSWER_S: Final = 2.0

# What the thread is told: the program has started, the user stops the job (Ctrl-Z), the program has ended.
_Word = int | Literal["stop", "end"]


@contextmanager
def beside(base: Path | None) -> Iterator[Callable[[int], None]]:
    """Show a program once the function in the block has got its process id, and until the block ends.

    On a terminal the lowest lines are drawn anew each second; elsewhere a line is printed each minute. One thread
    draws, so that no drawing falls into another one. `base` is as in `Viewer`.
    """
    words: queue.SimpleQueue[_Word] = queue.SimpleQueue()
    ready = threading.Event()
    show = _draw if on_terminal(err=True) and hasattr(os, "tcgetpgrp") else _log
    thread = threading.Thread(
        target=show, args=(base, words, ready), name="carbon_otel live view", daemon=True
    )
    stops = show is _draw and signal.getsignal(signal.SIGTSTP) is signal.SIG_DFL
    if stops:
        signal.signal(signal.SIGTSTP, lambda number, frame: words.put("stop"))
    thread.start()
    ready.wait()
    try:
        yield words.put
    finally:
        words.put("end")
        thread.join()
        if stops:
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)


def _draw(base: Path | None, words: queue.SimpleQueue[_Word], ready: threading.Event) -> None:
    area, viewer = Area(2, _LINES), None
    try:
        area.draw(lines_of(view.brief([], _LINES), area.columns))
        ready.set()
        while (word := _next(words, _EVERY_S)) != "end":
            if word == "stop":
                area.end()
                os.kill(os.getpid(), signal.SIGSTOP)
            elif word is not None:
                viewer = Viewer(base, started_by(word))
            if viewer is None:
                continue
            try:
                states = viewer.look()
            except OSError as error:
                area.draw(lines_of(f"carbon_otel: {error}", area.columns))
            else:
                area.draw(lines_of(view.brief(states, _LINES), area.columns))
    finally:
        ready.set()
        area.end()
        if viewer is not None:
            viewer.leave()


def _log(base: Path | None, words: queue.SimpleQueue[_Word], ready: threading.Event) -> None:
    ready.set()
    started = words.get()
    if not isinstance(started, int):
        return  # it could not be started
    viewer = Viewer(base, started_by(started))
    try:
        while _next(words, _LOG_EVERY_S - _ANSWER_S) != "end":
            with contextlib.suppress(OSError):
                viewer.look()  # the processes answer at their next reading
            if _next(words, _ANSWER_S) == "end":
                return
            try:
                states = viewer.look()
            except OSError as error:
                say(f"carbon_otel: {error}", err=True)
            else:
                say(f"carbon_otel: {view.line(states) if states else 'no reading yet'}", err=True)
    finally:
        viewer.leave()


def _next(words: queue.SimpleQueue[_Word], within_s: float) -> _Word | None:
    try:
        return words.get(timeout=within_s)
    except queue.Empty:
        return None

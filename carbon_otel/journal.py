"""Writes the process's footprint and its metrics to a file at every checkpoint.

A kill loses at most one checkpoint interval. `carbon-otel journal send` sends the metrics later.

A process that ends its measurement and begins another one goes on with its file: the footprint there is their sum.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from carbon_otel.background import Worker
from carbon_otel.footprint import Footprint
from carbon_otel.fork import renew_after_fork
from carbon_otel.private_files import replace_file, shortened
from carbon_otel.sinks import Checkpoint, Pending, Sink, Tick
from carbon_otel.text import command_line

# An export waits no longer for the disk.
_FOR_DISK_S: Final = 1.0

# Measuring imports this module.
_BEGAN_S: Final = time.time()

# The file of this process, and the footprint there when its last measurement ended.
_former: tuple[Path, Footprint] | None = None


def former_path() -> Path | None:
    """The file of this process's former measurement, which the next one goes on with."""
    return None if _former is None else _former[0]


def _written_to(path: Path) -> Footprint | Literal[0]:
    """What former measurements of this process have written to a file; 0 if there were none."""
    return _former[1] if _former is not None and _former[0] == path else 0


def _forget() -> None:
    """In a forked child: the file is the parent's."""
    global _former
    _former = None


renew_after_fork(_forget)


class Metrics(Protocol):
    """What the process would export now, as JSON."""

    def hand_to(self, take: Callable[[dict[str, Any]], object]) -> None: ...

    def around_exports(self, before: Callable[[], object], after: Callable[[bool], object]) -> None: ...


class Journal(Sink):
    """Writes a JSON object, replacing the file atomically.

    `status` is `running` or `final`, `written_unix_s` the time, `checkpoint_interval_s` the longest time to the
    next write of a process that runs. `footprint` is of the last checkpoint. `metrics` are never older, and are
    written before an export too: what a killed process has kept is never less than what it has exported.
    `exported` is true if a receiver is known to have taken the final metrics. `process` has its id, its command
    line without secrets, and when it was first measured.
    """

    def __init__(self, path: Path, delivery: Worker, metrics: Metrics, checkpoint_interval_s: float) -> None:
        self._path = path.absolute()  # the program may change directory
        self._delivery = delivery
        self._metrics = metrics
        self.checkpoint_interval_s = checkpoint_interval_s
        self._before = _written_to(self._path)
        self._last: Checkpoint | None = None
        self._status = "running"
        self._exporting = self._exported = False  # of the final metrics
        metrics.around_exports(self._before_export, self._after_export)

    def tick(self, tick: Tick) -> None:
        if tick.checkpoint is not None:
            self._last = tick.checkpoint
            self._metrics.hand_to(partial(self._submit_latest, tick.checkpoint))

    def place(self) -> str:
        return f"the journal {shortened(self._path)}"

    def flush(self, timeout_s: float) -> Pending:
        return self._delivery.submit(lambda: None).wait

    def close(self, timeout_s: float) -> Pending:
        global _former
        self._status = "final"
        if self._last is not None:
            _former = self._path, self._before + self._last.process.footprint
        return self._write_soon().wait

    def _before_export(self) -> None:
        self._exporting = self._status == "final"
        if not self._exporting:
            self._write_soon().wait(_FOR_DISK_S)

    def _after_export(self, taken: bool) -> None:
        if self._exporting and taken:
            self._exported = True
            self._write_soon().wait(_FOR_DISK_S)

    def _write_soon(self) -> threading.Event:
        """Write the last checkpoint with the metrics of this moment; the event is set when that is done."""
        checkpoint, written = self._last, threading.Event()
        if checkpoint is None:
            return self._delivery.submit(lambda: None)

        def write(metrics: dict[str, Any]) -> None:
            try:
                self._write(checkpoint, metrics)
            finally:
                written.set()

        self._metrics.hand_to(lambda metrics: self._delivery.submit(partial(write, metrics)))
        return written

    def _submit_latest(self, checkpoint: Checkpoint, metrics: dict[str, Any]) -> None:
        self._delivery.submit_latest(self, partial(self._write, checkpoint, metrics))

    def _write(self, checkpoint: Checkpoint, metrics: dict[str, Any]) -> None:
        state = {
            "status": self._status,
            "exported": self._exported,
            "written_unix_s": time.time(),
            "checkpoint_interval_s": self.checkpoint_interval_s,
            "process": {
                "pid": os.getpid(),
                "command": command_line(sys.orig_argv),
                "began_unix_s": _BEGAN_S,
            },
            "footprint": (self._before + checkpoint.process.footprint).as_dict(),
            "metrics": metrics,
        }
        replace_file(self._path, json.dumps(state))

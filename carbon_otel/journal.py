"""The process's footprint in a file, renewed at every checkpoint, so that a kill loses at most one of them."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from carbon_otel.footprint import Footprint
from carbon_otel.fork import renew_after_fork
from carbon_otel.meter.meter import Snapshot
from carbon_otel.sinks import Sink


class Journal(Sink):
    """Writes `{"status": "running" | "final", "footprint": …}`, replacing the file atomically."""

    def __init__(self, path: Path, interval_s: float, totals: Callable[[], Footprint]) -> None:
        self._path = path.absolute()  # the program may change directory
        self._interval_s = interval_s
        self._totals = totals
        self._due = 0.0
        self._pid = os.getpid()
        self._writing = threading.Lock()
        renew_after_fork(self._renew)
        self._ended = False

    def _renew(self) -> None:
        """In a forked child: the thread that held the lock does not exist there."""
        self._writing = threading.Lock()

    def tick(self, snapshot: Snapshot) -> None:
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + self._interval_s
            self._write("running")

    def close(self, timeout_s: float) -> None:
        self._write("final")

    def _write(self, status: str) -> None:
        if os.getpid() != self._pid:
            return
        scratch = self._path.with_name(f".{self._path.name}.{self._pid}")
        with self._writing:
            if self._ended:
                return  # a tick that was slow
            self._ended = status == "final"
            scratch.write_text(json.dumps({"status": status, "footprint": self._totals().as_dict()}))
            scratch.replace(self._path)

"""Writes the process's footprint to a file at every checkpoint; a kill loses at most one checkpoint interval."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from carbon_otel.background import Worker
from carbon_otel.private_files import replace_file
from carbon_otel.sinks import Checkpoint, Pending, Sink, Tick


class Journal(Sink):
    """Writes `{"status": "running" | "final", "footprint": …}`, replacing the file atomically."""

    def __init__(self, path: Path, delivery: Worker) -> None:
        self._path = path.absolute()  # the program may change directory
        self._delivery = delivery
        self._last: Checkpoint | None = None

    def tick(self, tick: Tick) -> None:
        if tick.checkpoint is not None:
            self._last = tick.checkpoint
            self._delivery.submit_latest(self, partial(self._write, tick.checkpoint, "running"))

    def flush(self, timeout_s: float) -> Pending:
        return self._delivery.submit(lambda: None).wait

    def close(self, timeout_s: float) -> Pending:
        if self._last is None:
            return self.flush(timeout_s)
        return self._delivery.submit(partial(self._write, self._last, "final")).wait

    def _write(self, checkpoint: Checkpoint, status: str) -> None:
        state = {"status": status, "footprint": checkpoint.process.footprint.as_dict()}
        replace_file(self._path, json.dumps(state))

"""The parts of this process in runs that other processes have opened, on disk for those to send.

A worker of a pool may not have imported MLflow, may live for a second, and may be killed as soon as its last task
has ended. So it connects to no store. It leaves its sums in a file like that of an ended process: the process that
opened the run sends them with its own figures, or else the next measured process of the host, or
`carbon-otel mlflow sync`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from carbon_otel.guard import log_once
from carbon_otel.mlflow.delivery.batch import Batch, to_line
from carbon_otel.mlflow.delivery.spool import Spool

# Of the files' names.
PREFIX: Final = "joined-"


class JoinedFiles:
    """One file for each contribution to a run, with the last state. The delivery thread writes them all."""

    def __init__(self, folder: Path) -> None:
        """Does no I/O."""
        self._folder = folder
        # By the ids of the run and of the contribution.
        self._files: dict[tuple[str, str], Path] = {}
        self._numbers: Iterator[int] = itertools.count()

    def put(self, address: str, batch: Batch) -> None:
        """Replace the file of the batch's contribution."""
        name = f"{PREFIX}{batch.contribution_id}-{next(self._numbers):08}"
        try:
            path = Spool.leave(self._folder, name, to_line(1, address, batch))
        except OSError as error:
            log_once(
                "the part of process %d in run %s is lost, because %s cannot be written (%s); set state_dir to a "
                "writable folder",
                os.getpid(),
                batch.run_id,
                self._folder,
                error,
                about=batch.run_id,
            )
            return
        key = batch.run_id, batch.contribution_id
        before = self._files.get(key)
        self._files[key] = path
        if before is not None:
            with contextlib.suppress(OSError):  # it is being sent, or was
                Spool.take_back(before)

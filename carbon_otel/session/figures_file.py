"""The file that keeps the figures of a program whose figures nothing else gets.

It is in the folder `carbon-otel` of the working folder, as `emissions.csv` of CodeCarbon is in the working folder;
where that cannot be written, in the folder `state_dir`. The name has the time and the process, and no file is ever
overwritten. The content is that of a journal (`journal.py`) without metrics, which would make every stage dearer.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from carbon_otel.background import Worker
from carbon_otel.footprint import Footprint
from carbon_otel.guard import log_once
from carbon_otel.private_files import create_file, make_folder, replace_file, shortened
from carbon_otel.sinks import Checkpoint, Pending, Sink, Tick

# With a hyphen, so that Python never takes it for the package.
FOLDER: Final = "carbon-otel"


class FiguresFile(Sink):
    """Writes at checkpoints while `wanted(False)`, and at the end if `wanted(True)`; else it leaves no file.

    `counts` says whether a footprint is worth a file.
    """

    def __init__(
        self,
        delivery: Worker,
        state_dir: Path,
        checkpoint_interval_s: float,
        wanted: Callable[[bool], bool],
        counts: Callable[[Footprint], bool],
    ) -> None:
        self._path: Path | None = None
        self.checkpoint_interval_s = checkpoint_interval_s
        self._delivery = delivery
        self._wanted = wanted
        self._counts = counts
        self._folders = [state_dir / FOLDER]
        with contextlib.suppress(OSError):  # the working folder has been removed
            self._folders.insert(0, Path.cwd() / FOLDER)
        self._made: list[Path] = []
        self._last: Checkpoint | None = None

    @property
    def folder(self) -> str:
        """Where the file will be, if it can be written there."""
        return shortened(self._folders[0])

    def tick(self, tick: Tick) -> None:
        if tick.checkpoint is not None:
            self._last = tick.checkpoint
            if self._wanted(False):
                self._delivery.submit_latest(self, partial(self._write, tick.checkpoint, "running"))

    def place(self) -> str:
        return "" if self._path is None else shortened(self._path)

    def flush(self, timeout_s: float) -> Pending:
        return self._delivery.submit(lambda: None).wait

    def close(self, timeout_s: float) -> Pending:
        # Submitted with the wait, when all other sinks have begun to close: one of them may get its first figures.
        return lambda left_s: self._delivery.submit(self._end).wait(left_s)

    def _end(self) -> None:
        if self._last is not None and self._wanted(True):
            self._write(self._last, "final")
        elif self._path is not None:
            self._remove(self._path)

    def _write(self, checkpoint: Checkpoint, status: str) -> None:
        footprint = checkpoint.process.footprint
        if not self._counts(footprint):
            return
        state = {
            "status": status,
            "written_unix_s": time.time(),
            "checkpoint_interval_s": self.checkpoint_interval_s,
            "footprint": footprint.as_dict(),
        }
        text = json.dumps(state, indent=1)
        if self._path is not None:
            replace_file(self._path, text)
        while self._path is None and self._folders:
            try:
                self._path = self._create(self._folders[0], text)
            except OSError as error:
                folder = self._folders.pop(0)
                if not self._folders:
                    log_once("the figures are kept nowhere: no file can be made in %s (%s)", folder, error)

    def _create(self, folder: Path, text: str) -> Path:
        """A new file with this text. Raises OSError."""
        if not folder.is_dir():
            make_folder(folder)
            self._made.append(folder)
        stem = f"{time.strftime('%Y-%m-%d-%H%M%S')}-{os.getpid()}"
        # Containers on one volume may begin at the same second with the same number of their process.
        for number in itertools.count(2):
            path = folder / f"{stem}.json"
            if create_file(path, text):
                return path
            stem = f"{stem.partition('_')[0]}_{number}"
        raise AssertionError

    def _remove(self, path: Path) -> None:
        """Something else has got the figures since."""
        self._path = None
        path.unlink(missing_ok=True)
        for folder in self._made:
            with contextlib.suppress(OSError):  # other processes have files there
                folder.rmdir()

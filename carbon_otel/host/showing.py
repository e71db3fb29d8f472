"""What a measured process shows to viewers on its host, such as `carbon-otel top`: a file, while one of them asks.

    <meeting place>/<boot id>/live/<process>.asked    a viewer sets its time again and again
    <meeting place>/<boot id>/live/<process>.json     the process writes it at each tick, while it is asked

Without a viewer a process makes no file, and each tick costs it one look for the first of them. A viewer that was
killed asks no more. Nobody else can enter the meeting place: other users see nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any, Final

from carbon_otel import clock
from carbon_otel.private_files import make_folder, replace_file

# A viewer asks once a second; a busy or a stopped one may be late.
_ASKED_FOR_S: Final = 10.0


def folder_in(root: Path, booted: str) -> Path:
    """The folder of these files in a meeting place."""
    return root / booted / "live"


class Shown:
    """The files of one process."""

    def __init__(self, folder: Path, process: str) -> None:
        self._asked = folder / f"{process}.asked"
        self._asked_name = str(self._asked)
        self._state = folder / f"{process}.json"

    def is_asked(self) -> bool:
        """Whether a viewer wants to see the process."""
        try:
            return clock.wall() - os.stat(self._asked_name).st_mtime < _ASKED_FOR_S  # noqa: PTH116 - at each tick
        except OSError:
            return False

    def write(self, state: dict[str, Any]) -> None:
        """Show this state. Raises OSError, and without a file if no viewer has made the folder."""
        replace_file(self._state, json.dumps(state))

    def ask(self) -> None:
        """Ask the process to show its state; again within 10 s, as long as it is wanted. Raises OSError."""
        make_folder(self._asked.parent)
        replace_file(self._asked, "")

    def read(self) -> dict[str, Any] | None:
        """The state that the process has shown last; None if there is none that can be read."""
        try:
            state = json.loads(self._state.read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return state if isinstance(state, dict) else None

    def remove(self) -> None:
        """Remove the files."""
        for file in (self._asked, self._state):
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)

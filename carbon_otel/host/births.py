"""Whether processes have begun on this host since the last look, by one small file instead of a list of them."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final

from carbon_otel.sensors.files import KernelFile

_BYTES: Final = 128


class Births:
    """Looks at the last process id that the kernel has given, which is in /proc/loadavg (proc(5)).

    Threads get one, too. Some containers have a file of their own in that place, which may be constant or late, so
    it counts only after it has shown a thread of ours.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "loadavg"
        self._file: KernelFile | None = None
        self._last = b""
        self._counts: bool | None = None

    def since_last_look(self) -> bool:
        """False if no process and no thread has begun; true at the first look, and where that cannot be known."""
        if self._counts is False:
            return True
        try:
            if self._file is None:
                self._file = KernelFile(self._path)
                before = self._read(self._file)
                thread = threading.Thread(target=bool, name="carbon_otel births", daemon=True)
                thread.start()
                thread.join()
                self._last = self._read(self._file)
                self._counts = self._last != before
                return True
            now = self._read(self._file)
        except (OSError, RuntimeError):  # no such file here, or no thread can begin
            self._counts = False
            return True
        began, self._last = now != self._last, now
        return began

    @staticmethod
    def _read(file: KernelFile) -> bytes:
        return file.read(_BYTES).rpartition(b" ")[2]

"""The last process id that the kernel has given: while it stays, no process has begun."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final

from carbon_otel.sensors.files import KernelFile

PROC: Final = Path("/proc")
_BYTES: Final = 128


class LastId:
    """The last word of /proc/loadavg (proc(5)). Threads get an id, too.

    Some containers have a file of their own in that place, which may be constant or late, so it counts only after
    it has shown a thread of ours.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "loadavg"
        self._file: KernelFile | None = None
        self._counts = True

    def read(self) -> bytes | None:
        """The id; None where it cannot be known."""
        if not self._counts:
            return None
        try:
            if self._file is None:
                self._file = KernelFile(self._path)
                self._counts = self._shows_a_thread(self._file)
            return _word(self._file) if self._counts else None
        except (OSError, RuntimeError):  # no such file here, or no thread can begin
            self._counts = False
            return None

    @staticmethod
    def _shows_a_thread(file: KernelFile) -> bool:
        before = _word(file)
        thread = threading.Thread(target=bool, name="carbon_otel last id", daemon=True)
        thread.start()
        thread.join()
        return _word(file) != before


def _word(file: KernelFile) -> bytes:
    return file.read(_BYTES).rpartition(b" ")[2]


# That of this host: measurements one after the other read it through one descriptor.
OF_HOST: Final = LastId(PROC)

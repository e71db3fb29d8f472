"""The gauge of stolen processor time, from /proc/stat. High values make the utilisation less reliable."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_HZ: Final = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


class Steal:
    """The share of this guest's processor time that the hypervisor gave to others."""

    def __init__(self, path: Path = Path("/proc/stat")) -> None:
        self._path = path
        self._before = self._read() or (0, 0)
        self._share = 0.0

    def share(self) -> float | None:
        """The stolen share of all threads' time since the last call, from 0 to 1; None if none was ever stolen."""
        now = self._read()
        if now is None or not now[0]:
            return None
        stolen, total = (after - before for after, before in zip(now, self._before, strict=True))
        # Another metric reader may have called this a moment ago.
        if total >= _HZ // 10:
            self._share = min(1.0, max(0.0, stolen / total))
            self._before = now
        return self._share

    def _read(self) -> tuple[int, int] | None:
        """Stolen ticks, and ticks of all kinds except guest time, which is part of user time."""
        try:
            with self._path.open("rb") as file:
                ticks = [int(field) for field in file.readline().split()[1:9]]
        except (OSError, ValueError):
            return None
        return (ticks[7], sum(ticks)) if len(ticks) == 8 else None

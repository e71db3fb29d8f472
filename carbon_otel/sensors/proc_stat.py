"""Busy and stolen processor time, from /proc/stat."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import psutil

from carbon_otel.sensors.base import SensorError

_HZ: Final = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


class BusyTime:
    """CPU seconds this host has been (busy, idle) since boot, over all its threads.

    Time stolen by the hypervisor is in neither: it was asked for and not run here. Guest time is already in
    user time (proc(5)).
    """

    def __init__(self, path: Path = Path("/proc/stat")) -> None:
        self._path = path
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._fd = -1

    def read(self) -> tuple[float, float]:
        """Seconds busy and idle. Raises SensorError."""
        if self._fd < 0:
            return self._read_elsewhere()
        try:
            fields = os.pread(self._fd, 256, 0).split(b"\n", 1)[0].split()
            user, nice, system, idle, iowait, irq, softirq = (int(x) for x in fields[1:8])
        except (OSError, ValueError) as error:
            raise SensorError(f"{self._path}: {error}") from error
        return (user + nice + system + irq + softirq) / _HZ, (idle + iowait) / _HZ

    @staticmethod
    def _read_elsewhere() -> tuple[float, float]:
        try:
            times = psutil.cpu_times()
        except (OSError, psutil.Error) as error:
            raise SensorError(f"psutil.cpu_times: {error}") from error
        return times.user + times.system + getattr(times, "nice", 0.0), times.idle

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Steal:
    """How much of this guest's time the hypervisor gave to others: where that is much, utilisation says less."""

    def __init__(self, path: Path = Path("/proc/stat")) -> None:
        self._path = path
        self._before = self._read() or (0, 0)
        self._share = 0.0

    def share(self) -> float | None:
        """Of all threads' time since the last call, from 0 to 1; None on a host that was never stolen from."""
        now = self._read()
        if now is None or not now[0]:
            return None
        stolen, total = (after - before for after, before in zip(now, self._before, strict=True))
        # Another reader may have asked a moment ago.
        if total >= _HZ // 10:
            self._share = min(1.0, max(0.0, stolen / total))
            self._before = now
        return self._share

    def _read(self) -> tuple[int, int] | None:
        """Ticks stolen, and of all kinds but guest time, which is in user time."""
        try:
            with self._path.open("rb") as file:
                ticks = [int(field) for field in file.readline().split()[1:9]]
        except (OSError, ValueError):
            return None
        return (ticks[7], sum(ticks)) if len(ticks) == 8 else None

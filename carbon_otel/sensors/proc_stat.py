"""Busy processor time, from /proc/stat."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import psutil

from carbon_otel.sensors.base import SensorError
from carbon_otel.sensors.files import KernelFile

_HZ: Final = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


class BusyTime:
    """Busy and idle CPU seconds of this host since boot, over all threads.

    Time stolen by the hypervisor counts as neither, because the host was ready but did not run. User time already
    includes guest time (proc(5)).
    """

    def __init__(self, path: Path = Path("/proc/stat")) -> None:
        self._path = path
        try:
            self._file: KernelFile | None = KernelFile(path)
        except OSError:
            self._file = None

    def read(self) -> tuple[float, float]:
        """Busy and idle seconds. Raises SensorError."""
        if self._file is None:
            return self._read_elsewhere()
        try:
            fields = self._file.read(256).split(b"\n", 1)[0].split()
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
        """Close the file. Later readings go through psutil."""
        if self._file is not None:
            self._file.close()
            self._file = None

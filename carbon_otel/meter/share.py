"""Which part of the host this process answers for.

`reserved` (the default, as SCI, ISO/IEC 21031, counts reserved hardware): the whole host, or the part of its
hardware threads that a cgroup's quota or cpuset sets aside. `process`: the process tree's share of the
processor's active energy, and of its idle energy, by CPU time.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import psutil

from carbon_otel.meter.peers import Peers
from carbon_otel.sensors.base import SensorError
from carbon_otel.sensors.processor import BusyTime

_CGROUP: Final = Path("/sys/fs/cgroup")


def reserved_share(threads: int, cgroup: Path = _CGROUP, own: Path = Path("/proc/self/cgroup")) -> float:
    """The share of the host's hardware threads that this process's cgroups set aside, in (0, 1]."""
    limits = [float(threads)]
    for folder in _cgroup_folders(cgroup, own):
        quota = _quota(folder)
        if quota:
            limits.append(quota)
        for name in ("cpuset.cpus.effective", "cpuset.effective_cpus"):
            cpus = _count_cpus(_read(folder / name))
            if cpus:
                limits.append(float(cpus))
    return min(limits) / threads


def _cgroup_folders(root: Path, own: Path) -> list[Path]:
    """This process's cgroup folders and their parents: v2, and v1's cpu and cpuset hierarchies."""
    folders: dict[Path, None] = {}
    for line in _read(own).splitlines():
        _, controllers, path = ([*line.split(":", 2), "", ""])[:3]
        wanted = {c for c in controllers.split(",") if c in ("cpu", "cpuset")}
        bases = [root / c for c in wanted] if wanted else ([root] if not controllers else [])
        for base in bases:
            relative = path.strip("/")
            while True:
                folders[base / relative] = None
                if not relative:
                    break
                relative = relative.rpartition("/")[0]
    return list(folders)


def _quota(folder: Path) -> float | None:
    """Threads' worth of run time: v2 `cpu.max`, v1 `cpu.cfs_quota_us`."""
    fields = _read(folder / "cpu.max").split()
    if not fields:
        fields = [_read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip()]
    try:
        quota, period = float(fields[0]), float(fields[1])
    except (ValueError, IndexError):
        return None
    return quota / period if quota > 0 and period > 0 else None


def _count_cpus(listing: str) -> int:
    count = 0
    for part in listing.strip().split(","):
        first, _, last = part.partition("-")
        if first.isascii() and first.isdigit():
            count += int(last) - int(first) + 1 if last.isascii() and last.isdigit() else 1
    return count


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


class ReservedShare:
    """Our part of what is reserved: all of it, unless other processes of this user are measured too.

    Then, as they cannot all be charged with the machine, its active part (the utilisation u) goes by their CPU
    time and its idle part is split equally. All of them see the same figures, so their parts add up to one.
    """

    at_edges = False

    def __init__(self, reserved: float, peers: Peers, busy_time: BusyTime) -> None:
        self._reserved = reserved
        self._peers = peers
        self._busy_time = busy_time
        self._before: tuple[float, float] | None = None
        self._seconds: Mapping[int, float] = peers.cpu_seconds()
        self.share = reserved / max(1, len(self._seconds))

    def update(self) -> float:
        seconds, before = self._peers.cpu_seconds(), self._seconds
        self._seconds = seconds
        if not seconds:
            self._before = None
            self.share = self._reserved
            return self.share
        try:
            busy, idle = self._busy_time.read()
        except SensorError:
            return self.share
        then, self._before = self._before, (busy, idle)
        # One that came since the last tick has spent what it has spent since then.
        spent = {pid: max(0.0, now - before.get(pid, now)) for pid, now in seconds.items()}
        total = sum(spent.values())
        ran, rested = (busy - then[0], idle - then[1]) if then else (0.0, 0.0)
        utilisation = ran / (ran + rested) if ran > 0 and rested >= 0 and total > 0 else 0.0
        equal = 1 / len(seconds)
        by_time = spent[os.getpid()] / total if total > 0 else equal
        self.share = self._reserved * ((1 - utilisation) * equal + utilisation * by_time)
        return self.share


class ProcessShare:
    """The process tree's share of the processor, from CPU times between two calls of `update`.

    With c the tree's part of the host's capacity and u the host's utilisation, the tree pays c/u of the
    active part of the energy (u) and c of the idle part (1 - u): together c (2 - u).
    """

    at_edges = True

    def __init__(self, busy_time: BusyTime) -> None:
        self._busy_time = busy_time
        self._before: tuple[float, float, float] | None = None
        self.share = 0.0

    def update(self) -> float:
        try:
            busy, idle = self._busy_time.read()
            own = tree_cpu_seconds()
        except (SensorError, OSError, psutil.Error):
            return self.share
        if self._before is not None:
            ran, rested, spent = (
                now - then for now, then in zip((busy, idle, own), self._before, strict=True)
            )
            capacity = ran + rested
            if capacity > 0 and ran >= 0 and rested >= 0:
                part = min(max(spent, 0.0), ran) / capacity
                self.share = part * (2 - ran / capacity)
                self._before = (busy, idle, own)
        else:
            self._before = (busy, idle, own)
        return self.share


def tree_cpu_seconds() -> float:
    """CPU seconds of this process and its descendants, the reaped and the living."""
    times = os.times()
    total = times.user + times.system + times.children_user + times.children_system
    for child in psutil.Process().children(recursive=True):
        try:
            spent = child.cpu_times()
        except psutil.Error:
            continue
        total += spent.user + spent.system
    return total

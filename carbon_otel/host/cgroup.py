"""The hardware threads that cgroups reserve for this process: quotas and cpusets of v2 and v1."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple

_CGROUP: Final = Path("/sys/fs/cgroup")
_ONLINE: Final = Path("/sys/devices/system/cpu/online")


class Reservation(NamedTuple):
    """`threads` of the `of` hardware threads of the host, reserved `by` a cgroup folder, else by `host`."""

    threads: float
    by: str
    of: int

    @property
    def share(self) -> float:
        """The share of the host, in (0, 1]."""
        return self.threads / self.of

    @property
    def resource(self) -> str:
        """A name of what is reserved; it is the same in every container, which may see another path."""
        try:
            status = Path(self.by).stat() if self.by != "host" else None
        except OSError:
            return self.by
        return f"cgroup {status.st_dev}:{status.st_ino}" if status is not None else self.by


def host_threads(online: Path = _ONLINE) -> int:
    """The hardware threads of the host.

    `os.cpu_count()` follows PYTHON_CPU_COUNT from Python 3.13 on, and the affinity with some C libraries.
    """
    return _count_cpus(_read(online)) or os.cpu_count() or 1


def reservation(threads: int, cgroup: Path = _CGROUP, own: Path = Path("/proc/self/cgroup")) -> Reservation:
    """The tightest reservation of this process's cgroups on a host of `threads` hardware threads."""
    limits = [Reservation(float(threads), "host", threads)]
    for folder in _cgroup_folders(cgroup, own):
        quota = _quota(folder)
        if quota:
            limits.append(Reservation(quota, str(folder), threads))
        for name in ("cpuset.cpus.effective", "cpuset.effective_cpus"):
            cpus = _count_cpus(_read(folder / name))
            if cpus:
                limits.append(Reservation(float(cpus), str(folder), threads))
    # If limits are equal, the outermost one counts: the cgroups below it inherit its cpuset.
    return min(limits, key=lambda limit: limit.threads)


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
    """The quota in threads (run time over period): v2 `cpu.max`, v1 `cpu.cfs_quota_us`; None without one."""
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

"""The measured processes of this host, so that a joule they share is counted once.

Each process keeps a file in a folder of its user's, keyed by the boot, and holds a lock on it; the kernel drops
the lock with the process, however it ends. Whoever meets an unlocked file removes it. One more lock is the
device book: its holder reports the devices themselves; when it dies, the next one takes over.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from carbon_otel.units import NS_PER_S

try:
    import fcntl
except ImportError:  # Windows: every process counts for itself
    fcntl = None  # type: ignore[assignment]

_HZ: Final = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_BOOK: Final = "device-book"
_TRIES: Final = 5


class Peers:
    """This process's membership among those that read the same devices.

    `view` names where the devices are read; processes with other views of the hardware share nothing. Without
    a usable folder the process is alone.
    """

    def __init__(self, view: str, base: Path | None = None) -> None:
        self._pid = os.getpid()
        self._folder = _folder(view, base)
        self._own: int | None = None
        self._book: int | None = None
        self._others: list[int] = []
        self._listed_ns = -1
        if self._folder is not None and fcntl is not None:
            self._path = self._folder / f"{self._pid}"
            self._own = _lock(self._path)

    def cpu_seconds(self) -> Mapping[int, float]:
        """CPU seconds so far of every measured process of this user by its id; empty when we are alone."""
        others = {}
        for pid in self._list():
            seconds = _cpu_seconds(pid)
            if seconds is not None:
                others[pid] = seconds
        return {self._pid: _cpu_seconds(self._pid) or 0.0, **others} if others else {}

    def _list(self) -> list[int]:
        """The other living members. A folder that has not changed, and had none, is not listed again."""
        if self._own is None or self._folder is None:
            return []
        try:
            changed_ns = self._folder.stat().st_mtime_ns
            # The folder's time is coarse: another may join within the tick in which it was listed.
            settled = time.time_ns() - changed_ns > NS_PER_S
            if self._others or not settled or changed_ns != self._listed_ns:
                names = [
                    p.name for p in self._folder.iterdir() if p.name.isdigit() and p.name != str(self._pid)
                ]
                self._others = [int(name) for name in names if _is_locked(self._folder / name)]
                self._listed_ns = changed_ns
        except OSError:
            self._others = []
        return self._others

    def keeps_device_book(self) -> bool:
        """Whether this process is the one that reports the devices; it becomes so when nobody else is."""
        if self._own is None or self._folder is None:
            return True
        if self._book is None:
            self._book = _lock(self._folder / _BOOK)
        return self._book is not None

    def leave(self) -> None:
        """End the membership; in a forked child, drop the copies of the parent's locks and leave its files."""
        if self._own is not None and os.getpid() == self._pid:
            self._path.unlink(missing_ok=True)
        for descriptor in (self._own, self._book):
            if descriptor is not None:
                os.close(descriptor)
        self._own = self._book = None


def runtime_folder() -> Path:
    """Where this user's processes meet: the session's runtime folder, or one of the user's own beside it."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    return Path(base) / "carbon_otel" if base else Path(tempfile.gettempdir()) / f"carbon_otel-{os.getuid()}"


def _folder(view: str, base: Path | None) -> Path | None:
    """A folder that only this user can write, of this boot and this view; None where there is no safe one."""
    try:
        root = base or runtime_folder()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        folder = root / boot / hashlib.sha256(view.encode()).hexdigest()[:16]
        root.parent.mkdir(parents=True, exist_ok=True)
        for part in (root, folder.parent, folder):
            part.mkdir(mode=0o700, exist_ok=True)
        owner = root.lstat()
    except (OSError, AttributeError):
        return None
    # In a shared temporary folder somebody else may have been there first.
    safe = stat.S_ISDIR(owner.st_mode) and owner.st_uid == os.getuid() and not owner.st_mode & 0o022
    return folder if safe else None


def _lock(path: Path) -> int | None:
    """An open descriptor that holds the file's lock; None if another process holds it."""
    for _ in range(_TRIES):
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between open and lock somebody may have taken the file for a dead process's and removed it.
            if os.fstat(descriptor).st_ino == path.stat().st_ino:
                return descriptor
        except FileNotFoundError:
            pass
        except OSError:
            os.close(descriptor)
            return None
        os.close(descriptor)
    return None


def _is_locked(path: Path) -> bool:
    """Whether the file's process lives; a file left by a dead one is removed."""
    descriptor = _lock(path)
    if descriptor is None:
        return path.exists()
    path.unlink(missing_ok=True)
    os.close(descriptor)
    return False


def _cpu_seconds(pid: int) -> float | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / _HZ

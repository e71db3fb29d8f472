"""The measured processes of this host: each shared joule is counted once.

Each process has a file in a folder of its user and boot, and holds a lock on it; the kernel drops the lock when
the process ends, however it ends. A process that finds an unlocked file removes it. A further lock is the device
book: its holder reports the devices; when it ends, another process takes over.

Members must be able to see each other's CPU times, so each process id namespace has a separate folder; the
device book is above these folders.

    <runtime folder>/<boot id>/v<format>/<view>/device-book
    <runtime folder>/<boot id>/v<format>/<view>/<namespace>/<process id>
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from carbon_otel.fork import renew_after_fork
from carbon_otel.guard import log_once
from carbon_otel.host.identity import boot, pid_namespace
from carbon_otel.units import NS_PER_S

try:
    import fcntl
except ImportError:  # Windows: every process counts as alone
    fcntl = None  # type: ignore[assignment] # a module has no value None

# The format of these files and of the usage book. Releases with different formats use different folders.
_FORMAT: Final = 2
_BOOK: Final = "device-book"
_SPLIT_LOCK: Final = "split.lock"
_TRIES: Final = 5
_PATIENCE_S: Final = 0.05


class Membership:
    """Membership in the group of processes that read the same devices.

    `view` identifies the source of the readings; processes with different views share nothing. Without a usable
    folder the process counts as alone, and `folder` is None.
    """

    def __init__(self, view: str, base: Path | None = None) -> None:
        self.pid = os.getpid()
        self.folder = _folder(view, base)
        self._own: int | None = None
        self._book: int | None = None
        # If two threads tick at the same time, the second would overwrite the descriptor with which the first
        # holds the lock.
        self._asking = threading.Lock()
        self._left = False
        self._seen_ns = -1
        renew_after_fork(self._abandon)
        if self.folder is not None:
            self._path = self.folder / f"{self.pid}"
            for _ in range(_TRIES):
                self._own = _lock(self._path)
                if self._own is not None:
                    break
                time.sleep(_PATIENCE_S / _TRIES)  # another process is testing whether this one is dead
            if self._own is None:
                log_once(
                    "%s is locked by another process; this process counts as alone on the host, so energy that "
                    "both share is counted twice",
                    self._path,
                )
                self.folder = None
            else:
                _remove_dead(self.folder, self._path)
                self._warn_of_other_namespaces()

    def quiet(self) -> bool:
        """Whether no process has joined, left or written since the last call."""
        if self.folder is None:
            return True
        try:
            changed_ns = self.folder.stat().st_mtime_ns
        except OSError:
            return False
        # The folder's time is coarse: another process may still join within the same clock tick.
        settled = time.time_ns() - changed_ns > NS_PER_S
        quiet = settled and changed_ns == self._seen_ns
        self._seen_ns = changed_ns
        return quiet

    def alive(self, pid: int) -> bool:
        """Whether a member lives; the file of a dead one is removed."""
        return self.folder is not None and (pid == self.pid or _is_locked(self.folder / f"{pid}"))

    @contextmanager
    def locked(self) -> Iterator[bool]:
        """Hold the lock on the shared files; yields False if another process, such as a stopped one, keeps it."""
        descriptor = None
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(_PATIENCE_S / _TRIES)
            descriptor = _lock(self.folder / _SPLIT_LOCK) if self.folder is not None else None
            if descriptor is not None or self.folder is None:
                break
        try:
            yield descriptor is not None
        finally:
            if descriptor is not None:
                _unlock(descriptor)

    def holds_device_book(self) -> bool:
        """Whether this process reports the host's devices.

        It does while it holds the lock of the device book, and takes the lock if it is free.
        """
        with self._asking:
            if self.folder is None:
                return not self._left
            if self._book is None:
                self._book = _lock(self.folder.parent / _BOOK)
            return self._book is not None

    def exchange_reported_until(self, now_ns: int) -> int:
        """Record that the devices are reported up to `now_ns` (monotonic clock); return the previous mark.

        After a change of the holder, the previous mark is that of the previous holder.
        """
        with self._asking:
            if self._book is None:
                return now_ns
            try:
                before = os.pread(self._book, 32, 0)
                os.pwrite(self._book, b"%020d" % now_ns, 0)
            except OSError:
                return now_ns
        return int(before) if before.isdigit() else now_ns

    def leave(self) -> None:
        """End the membership: release the locks, and remove this process's file."""
        with self._asking:
            if self._own is not None:
                self._path.unlink(missing_ok=True)
            self._drop(_unlock)

    def _abandon(self) -> None:
        """In a forked child: close the copies of the parent's locks, which stay locked, and leave its files."""
        self._asking = threading.Lock()  # the thread that held it does not exist in the child
        self._drop(os.close)

    def _drop(self, release: Callable[[int], None]) -> None:
        for descriptor in (self._own, self._book):
            if descriptor is not None:
                release(descriptor)
        self._own = self._book = self.folder = None
        self._left = True

    def _warn_of_other_namespaces(self) -> None:
        """Warn if processes of other containers use this folder: they share the hardware, but not the book."""
        assert self.folder is not None
        for namespace in self.folder.parent.iterdir():
            if namespace != self.folder and namespace.is_dir() and _remove_dead(namespace):
                log_once(
                    "processes in another container measure the same hardware; each container counts it as its "
                    "own, so their sum may be too high",
                )
                return


def runtime_folder() -> Path:
    """The folder where this user's processes meet: in the session's runtime folder, else in the temporary one."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    return Path(base) / "carbon_otel" if base else Path(tempfile.gettempdir()) / f"carbon_otel-{os.getuid()}"


def _folder(view: str, base: Path | None) -> Path | None:
    """The folder of this boot, view and namespace, writable by this user only; None if it cannot be made."""
    try:
        if fcntl is None:
            raise OSError("this system has no locks on files")
        root = base or runtime_folder()
        name = hashlib.sha256(view.encode()).hexdigest()[:16]
        root.parent.mkdir(parents=True, exist_ok=True)
        root.mkdir(mode=0o700, exist_ok=True)
        folder = root
        for part in (boot(), f"v{_FORMAT}", name, pid_namespace()):
            folder /= part
            folder.mkdir(mode=0o700, exist_ok=True)
        owner = root.lstat()
    except (OSError, AttributeError):
        return None
    # In a shared temporary folder another user may have made this folder first.
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
            # Between open and lock, another process may have removed the file as one of a dead process.
            if os.fstat(descriptor).st_ino == path.stat().st_ino:
                return descriptor
        except FileNotFoundError:
            pass
        except OSError:
            os.close(descriptor)
            return None
        os.close(descriptor)
    return None


def _unlock(descriptor: int) -> None:
    """Release the lock and close. After closing alone, a forked child's copy would keep the lock."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _is_locked(path: Path) -> bool:
    """Whether the file's process lives; the file of a dead one is removed."""
    descriptor = _lock(path)
    if descriptor is None:
        return path.exists()
    path.unlink(missing_ok=True)
    os.close(descriptor)
    return False


def _remove_dead(folder: Path, own: Path | None = None) -> bool:
    """Remove the files of dead processes; returns whether another process lives."""
    others = [path for path in folder.iterdir() if path.name.isdigit() and path != own]
    living = [path for path in others if _is_locked(path)]
    return bool(living)

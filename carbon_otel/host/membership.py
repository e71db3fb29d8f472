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
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from carbon_otel.fork import renew_after_fork
from carbon_otel.units import NS_PER_S

try:
    import fcntl
except ImportError:  # Windows: every process counts for itself
    fcntl = None  # type: ignore[assignment]

_BOOK: Final = "device-book"
_SPLIT_LOCK: Final = "split.lock"
_TRIES: Final = 5
_PATIENCE_S: Final = 0.05


class Membership:
    """This process's membership among those that read the same devices.

    `view` names where the devices are read; processes with other views of the hardware share nothing. Without
    a usable folder the process is alone, and `folder` None.
    """

    def __init__(self, view: str, base: Path | None = None) -> None:
        self.pid = os.getpid()
        self.folder = _folder(view, base) if fcntl is not None else None
        self._own: int | None = None
        self._book: int | None = None
        # Two threads may tick at once: the second would take the book for another process's, and the first's
        # descriptor would be lost, with the lock on it.
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
                time.sleep(_PATIENCE_S / _TRIES)  # another one looks whether it is a dead process's
            if self._own is None:
                self.folder = None
            else:
                self._sweep()

    def quiet(self) -> bool:
        """Whether nobody has come, gone or written since the last time that this was asked."""
        if self.folder is None:
            return True
        try:
            changed_ns = self.folder.stat().st_mtime_ns
        except OSError:
            return False
        # The folder's time is coarse: another may come within the tick in which it was looked at.
        settled = time.time_ns() - changed_ns > NS_PER_S
        quiet = settled and changed_ns == self._seen_ns
        self._seen_ns = changed_ns
        return quiet

    def alive(self, pid: int) -> bool:
        """Whether a member lives; the file of a dead one is removed."""
        return self.folder is not None and (pid == self.pid or _is_locked(self.folder / f"{pid}"))

    @contextmanager
    def locked(self) -> Iterator[bool]:
        """Hold what the members write together; false if another does not let go of it, say a stopped one."""
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
        """Whether this process is the one that reports the devices; it becomes so when nobody else is, until it
        leaves.
        """
        with self._asking:
            if self.folder is None:
                return not self._left
            if self._book is None:
                self._book = _lock(self.folder / _BOOK)
            return self._book is not None

    def exchange_reported_until(self, now_ns: int) -> int:
        """Write down, for who keeps the book next, that the devices are reported until `now_ns` of the monotonic
        clock; until when they had been.
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

    def _sweep(self) -> None:
        """Remove what the killed have left."""
        assert self.folder is not None
        for path in self.folder.iterdir():
            if path.name.isdigit() and path != self._path:
                _is_locked(path)


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


def _unlock(descriptor: int) -> None:
    """Closing it alone would leave the lock to the copy that a process has which was forked meanwhile."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _is_locked(path: Path) -> bool:
    """Whether the file's process lives; a file left by a dead one is removed."""
    descriptor = _lock(path)
    if descriptor is None:
        return path.exists()
    path.unlink(missing_ok=True)
    os.close(descriptor)
    return False

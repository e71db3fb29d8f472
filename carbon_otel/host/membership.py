"""The measured processes of this host: each shared joule is counted once.

Each process has a file in a folder of its user and boot, and holds a lock on it; the kernel drops the lock when
the process ends, however it ends. A process that finds an unlocked file removes it. A further lock is the device
book: its holder reports the devices; when it ends, another process takes over.

    <meeting place>/<boot id>/v<format>/<view>/device-book
    <meeting place>/<boot id>/v<format>/<view>/<process id>.<process id namespace>.<start time>
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from carbon_otel import clock
from carbon_otel.descriptors import file_of
from carbon_otel.fork import renew_after_fork
from carbon_otel.host import meeting_place
from carbon_otel.host.identity import ProcessName, boot, this_process
from carbon_otel.host.showing import Shown, folder_in
from carbon_otel.private_files import make_folder, open_file
from carbon_otel.units import NS_PER_S

try:
    import fcntl
except ImportError:  # Windows: every process counts as alone
    fcntl = None  # type: ignore[assignment] # a module has no value None

_HAS_LOCKS: Final = bool(fcntl)
# The format of these files and of the usage book. Releases with different formats use different folders.
_FORMAT: Final = 3
_BOOK: Final = "device-book"
_SPLIT_LOCK: Final = "split.lock"
_TRIES: Final = 5
# Between two looks at the other groups: this time, or longer where a look is slow, but not longer than the second.
_LOOK_EVERY_S: Final = 5.0
_LOOK_AT_LEAST_EVERY_S: Final = 30.0
_MOST_SPENT: Final = 2e-4
_PATIENCE_S: Final = 0.05
# Viewers read once a second.
_READ_AFTER_S: Final = 60.0


class Membership:
    """Membership in the group of processes that read the same devices.

    `view` identifies the source of the readings; processes with different views share nothing. `base` is the place
    to meet that the user names, instead of those of the host. Without a usable folder the process counts as alone,
    and `folder` is None.

    Attributes:
        process: the name of this process.
        other_groups: whether processes of this user meet in another folder, or cannot meet.
        other_users: whether processes of other users measure this host.
        shown: what this process shows to viewers; None where it cannot be met.
        apart: whether this process is known to be in a container, or in a job that shares not all places with the
            host; false where `base` is named.
    """

    def __init__(self, view: str, base: Path | None = None) -> None:
        self.process = this_process()
        self.name = str(self.process)
        self.folder: Path | None = None
        self.shown: Shown | None = None
        self.other_groups = self.other_users = self.apart = False
        self._view = hashlib.sha256(view.encode()).hexdigest()[:16]
        self._places = meeting_place.of_host() if base is None else meeting_place.Places((base,), (base,))
        self._root: Path | None = None
        self._foremost = False
        self._path = Path()
        self._unusable: set[Path] = set()  # places
        self._own: int | None = None
        self._book: int | None = None
        # The files of these descriptors: a program that closes all descriptors may get their numbers for its own.
        self._marks: dict[int, object] = {}
        # If two threads tick at the same time, the second would overwrite the descriptor with which the first
        # holds the lock.
        self._asking = threading.Lock()
        self._left = False
        self._seen_ns = -1
        self._due_s = 0.0
        renew_after_fork(self._abandon)
        self.meet()

    def meet(self) -> None:
        """Join the user's other processes, or move with them to a folder with precedence; call it at each tick."""
        with self._asking:
            if self._left:
                return
            due = clock.monotonic() >= self._due_s
            if due:
                self._unusable.clear()
            if (due or self._root is not None) and not self._is_in_place(due):
                self._join()
            if due:
                self._look_around()

    def _is_in_place(self, look: bool) -> bool:
        """Whether this process is where it should be. In the foremost place its file says so, without a look."""
        if not look and self._foremost:
            return self._is_there()
        return (
            self._root is not None
            and meeting_place.existing(self._usable()) == self._root
            and self._is_there()
        )

    def _is_there(self) -> bool:
        """Whether this process's file exists: a cleaner, or the end of a login session, may have removed it."""
        try:
            return self._own is not None and os.fstat(self._own).st_ino == self._path.lstat().st_ino
        except OSError:
            return False

    def _usable(self) -> list[Path]:
        if not _HAS_LOCKS:
            return []
        return [place for place in self._places.usable if place not in self._unusable]

    def _join(self) -> None:
        while (root := meeting_place.found_or_made(self._usable())) is not None:
            if root == self._root and self._is_there():
                return  # the places with precedence have just proved unusable
            folder = root / boot() / f"v{_FORMAT}" / self._view
            own = _enter(folder, self.name)
            if own is not None:
                self._move(root, folder, own)
                return
            self._unusable.add(root.parent)
        if not self._is_there():
            # Where a test of the application hides the descriptors (pyfakefs), this process stays where it is.
            if self._own is None or file_of(self._own) is not None:
                self._drop(_unlock)
            self._due_s = 0.0

    def _move(self, root: Path, folder: Path, own: int) -> None:
        if self._root is not None and self._root != root:
            self._show_left()
        self._drop(_unlock)
        self._root, self.folder, self._path, self._own = root, folder, folder / self.name, own
        self._foremost = root == self._places.foremost
        self.shown = Shown(folder_in(root, boot()), self.name)
        self._marks[own] = file_of(own)
        self._due_s = 0.0
        self.apart = self._places.is_apart(root)
        with contextlib.suppress(OSError):
            _living(folder, self.name)

    def _look_around(self) -> None:
        if self._root is None:
            self.other_groups = True
            self._due_s = clock.monotonic() + _LOOK_AT_LEAST_EVERY_S
            return
        began_s = clock.monotonic()
        with contextlib.suppress(OSError):
            meeting_place.show_alive(self._root)
        self.other_groups, self.other_users = meeting_place.other_groups(self._root, self._places.usable)
        now_s = clock.monotonic()
        pause_s = max(_LOOK_EVERY_S, (now_s - began_s) / _MOST_SPENT)
        self._due_s = now_s + min(pause_s, _LOOK_AT_LEAST_EVERY_S)

    def _show_left(self) -> None:
        """Show that this process has left, if it is the last one here."""
        assert self.folder is not None
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
            if self._root is not None and not _living(self.folder, self.name):
                meeting_place.retire(self._root)

    def quiet(self) -> bool:
        """Whether no process has joined, left or written since the last call."""
        if self.folder is None:
            return True
        try:
            changed_ns = self.folder.stat().st_mtime_ns
        except OSError:
            return False
        # The folder's time is coarse: another process may still join within the same clock tick.
        settled = clock.wall() - changed_ns / NS_PER_S > 1
        quiet = settled and changed_ns == self._seen_ns
        self._seen_ns = changed_ns
        return quiet

    def alive(self, name: str) -> bool:
        """Whether a member lives; the file of a dead one is removed."""
        return self.folder is not None and (name == self.name or _is_locked(self.folder / name))

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
                self._book = _lock(self.folder / _BOOK)
                if self._book is not None:
                    self._marks[self._book] = file_of(self._book)
            return self._book is not None

    def exchange_reported_until(self, now_ns: int) -> int:
        """Record that the devices are reported up to `now_ns` (monotonic clock); return the previous mark.

        After a change of the holder, the previous mark is that of the previous holder.
        """
        with self._asking:
            if self._book is None or file_of(self._book) != self._marks[self._book]:
                self._book = None
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
            if self.folder is not None:
                self._show_left()
            self._drop(_unlock)
            self._left = True

    def _abandon(self) -> None:
        """In a forked child: close the copies of the parent's locks, which stay locked, and leave its files."""
        self._asking = threading.Lock()  # the thread that held it does not exist in the child
        self._drop(os.close)
        self._left = True

    def _drop(self, release: Callable[[int], None]) -> None:
        for descriptor in (self._own, self._book):
            if descriptor is not None and file_of(descriptor) == self._marks[descriptor]:
                release(descriptor)
        self._marks.clear()
        self._own = self._book = self.folder = self.shown = self._root = None


def measured(base: Path | None = None) -> dict[ProcessName, Shown]:
    """The measured processes of this user that live on this host, and what they show to viewers.

    `base` is the place to meet that the user names, instead of those of the host. What dead processes have left
    is removed, but not what they have shown last: a viewer may not have read it yet.
    """
    places = (base,) if base is not None else meeting_place.of_host().usable
    found: dict[ProcessName, Shown] = {}
    for root in meeting_place.all_existing(places) if _HAS_LOCKS else ():
        shown = folder_in(root, boot())
        for folder in (root / boot() / f"v{_FORMAT}").glob("*"):
            for name in filter(None, map(ProcessName.parse, _names_in(folder))):
                if _is_locked(folder / str(name)):
                    found[name] = Shown(shown, str(name))
        _remove_others(shown, [str(name) for name in found])
    return found


def _remove_others(shown: Path, names: list[str]) -> None:
    before_s = clock.wall() - _READ_AFTER_S
    with contextlib.suppress(OSError):
        for file in shown.iterdir():
            if not any(name in file.name for name in names) and file.stat().st_mtime < before_s:
                file.unlink(missing_ok=True)


def _names_in(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - names
    except OSError:
        return []


def _enter(folder: Path, name: str) -> int | None:
    """Make the folder, and lock the file of this process in it; None if that fails."""
    try:
        make_folder(folder)
    except OSError:
        return None
    for _ in range(_TRIES):
        own = _lock(folder / name)
        if own is not None:
            return own
        time.sleep(_PATIENCE_S / _TRIES)  # another process is testing whether this one is dead
    return None


def _lock(path: Path) -> int | None:
    """An open descriptor that holds the file's lock; None if another process holds it."""
    for _ in range(_TRIES):
        try:
            descriptor = open_file(path, os.O_RDWR | os.O_CREAT)
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
    with contextlib.suppress(OSError):  # the application has closed it
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


def _living(folder: Path, own: str) -> list[str]:
    """The members except `own`; removes the files of dead ones."""
    names = [path.name for path in folder.iterdir() if ProcessName.parse(path.name)]
    return [name for name in names if name != own and _is_locked(folder / name)]

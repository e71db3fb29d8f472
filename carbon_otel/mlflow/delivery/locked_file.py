"""Files that one process at a time holds and writes, by a lock that the kernel drops when the process ends."""

from __future__ import annotations

import os
from pathlib import Path

from carbon_otel.descriptors import file_of
from carbon_otel.guard import log_once
from carbon_otel.private_files import open_file, user_id

try:
    import fcntl
except ImportError:  # Windows: without locks, batches stay in memory
    fcntl = None  # type: ignore[assignment] # a module has no value None


class SpoolInUse(OSError):
    """A living process holds the file and sends it itself."""


def own_files(folder: Path, suffix: str) -> list[Path]:
    """The files of this user in a folder, which users may share; none in a folder that cannot be read."""
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if e.stat(follow_symlinks=False).st_uid == user_id()]
    except FileNotFoundError:
        return []
    except OSError as error:
        log_once("%s cannot be read, so batches that may wait there are not sent: %s", folder, error)
        return []
    return [folder / name for name in sorted(names) if name.endswith(suffix)]


def lock(path: Path, flags: int = 0) -> int:
    """An open descriptor with the file's lock. Raises SpoolInUse, and OSError for another user's file."""
    if fcntl is None:
        raise OSError("this system has no locks on files")
    descriptor = open_file(path, os.O_RDWR | flags)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between open and lock, another process may have removed or replaced the file.
            if path.lstat().st_ino != os.fstat(descriptor).st_ino:
                raise SpoolInUse(str(path))
        except (BlockingIOError, FileNotFoundError):
            raise SpoolInUse(str(path)) from None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def lock_again(path: Path, file: object, size: int) -> int:
    """The same for a file whose lock was lost. Raises SpoolInUse also if it is not as it was."""
    descriptor = lock(path)
    if file_of(descriptor) == file and os.fstat(descriptor).st_size == size:
        return descriptor
    unlock(descriptor)
    raise SpoolInUse("another process has changed it")


def unlock(descriptor: int) -> None:
    """Release the lock, and close the file."""
    # Unlock before closing: a forked child that has not run its hooks yet still has a copy of the descriptor.
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def read(descriptor: int) -> bytes:
    """The whole file. Raises OSError."""
    size, pieces = 0, []
    while piece := os.pread(descriptor, 1 << 20, size):
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces)


def write(descriptor: int, data: bytes, offset: int) -> None:
    """Write all of the data at this place. Raises OSError."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written

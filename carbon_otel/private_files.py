"""Files and folders of this user only, also in folders in which other users can write.

Everything that carbon_otel makes has the mode 0600 or 0700, whatever the umask. A file is opened without following
a link, and is used only if this user owns it and no other user can write it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_HAS_OWNERS: Final = hasattr(os, "geteuid")
# Windows lacks some of these flags.
_CAREFUL: Final = (
    getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)  # opening a FIFO must not wait for its other end
    | getattr(os, "O_BINARY", 0)
)
# Each further name must be taken by another user before this user finds no free one.
_SUFFIXES: Final = ("", *(f"-{number}" for number in range(1, 10)))


class NotPrivateError(PermissionError):
    """The file is not a regular file, or another user owns or can write it."""


def user_id() -> int:
    """The user whose files this process makes; 0 on a system without user ids."""
    return os.geteuid() if _HAS_OWNERS else 0


def open_file(path: Path, flags: int) -> int:
    """Open a file, which `os.O_CREAT` in `flags` makes. Raises NotPrivateError, and OSError."""
    descriptor = os.open(path, flags | _CAREFUL, 0o600)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise NotPrivateError(f"{path} is not a regular file")
        if status.st_uid != user_id():
            raise NotPrivateError(f"{path} belongs to another user")
        if _HAS_OWNERS and status.st_mode & 0o022:
            raise NotPrivateError(f"other users can write {path}")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def replace_file(path: Path, text: str) -> None:
    """Write a file in one step. A file that exists keeps its mode. Raises OSError.

    Another user's file and a link are replaced by a file of this user. A device or a pipe is refused.
    """
    mode = 0o600
    with contextlib.suppress(FileNotFoundError):
        before = path.lstat()
        if not (stat.S_ISREG(before.st_mode) or stat.S_ISLNK(before.st_mode)):
            raise NotPrivateError(f"{path} is not a regular file")
        if stat.S_ISREG(before.st_mode) and before.st_uid == user_id() and hasattr(os, "fchmod"):
            mode = stat.S_IMODE(before.st_mode)
    # A name that another user cannot guess: the folder may be one in which all users write.
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    # Without the checks of `open_file`: some file systems show other modes and owners than those of a new file.
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _CAREFUL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode())
            if mode != 0o600:
                os.fchmod(descriptor, mode)
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def create_file(path: Path, text: str) -> bool:
    """Make a file that has the text from the start; False if there is one of that name. Raises OSError."""
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _CAREFUL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode())
        return _give_name(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def _give_name(scratch: Path, path: Path) -> bool:
    try:
        os.link(scratch, path)
    except FileExistsError:
        return False
    except (
        OSError
    ):  # a file system without links, where another process may make the file between these two lines
        if os.path.lexists(path):
            return False
        scratch.replace(path)
    return True


def add_to_file(path: Path, text: str) -> None:
    """Add text to the end of a file, in one write, so that processes may do it at the same time. Raises OSError.

    The file may belong to another user, who has made it for several: the user of this process has named it.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | _CAREFUL)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise NotPrivateError(f"{path} is not a regular file")
        left = memoryview(text.encode())
        while left:  # a full disk takes a part, and then raises
            left = left[os.write(descriptor, left) :]
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder and its missing parents; those that exist stay as they are. Raises OSError.

    A link to a folder is followed if this user or root made it.
    """
    try:
        path.mkdir(mode=0o700)
    except FileNotFoundError:
        if path.parent == path:
            raise
        make_folder(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError:
        if not path.is_dir():
            raise
        if path.lstat().st_uid not in (0, user_id()) and path.is_symlink():
            raise NotPrivateError(f"another user has made the link {path}") from None


def shortened(path: Path) -> str:
    """A path for people: from the working folder, if it is below it."""
    try:
        return os.fspath(path.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return os.fspath(path)


def is_private_folder(path: Path) -> bool:
    """Whether this is a folder, not a link to one, that only this user can enter."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == user_id() and not status.st_mode & 0o077


def may_be_planted(path: Path) -> bool:
    """Whether another user may have put a file into a folder in which all users can write. Raises OSError."""
    return bool(path.parent.stat().st_mode & 0o002) and path.lstat().st_uid not in (0, user_id())


def names_in(place: Path, name: str) -> Iterator[Path]:
    """The names for this user's folder in a folder in which all users write, in the order of preference.

    Another user may have taken the first of them.
    """
    for suffix in _SUFFIXES:
        yield place / f"{name}-{user_id()}{suffix}"

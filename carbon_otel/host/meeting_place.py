"""The folder in which the measured processes of a user meet: the same one in whatever environment they start.

No variable chooses it, because a login session, a cron job and the jobs of a batch system have different ones. It
is the first of a fixed list of names that exists and belongs to this user, or, if none does, the first that can be
made. Where another user has taken a name first, the next one is used. So all processes of the user agree: one that
has made or found a folder moves if one with precedence appears.

Each process sets the time of its folder again and again. Processes that cannot meet it, such as those of other
users, see by that time that it lives.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from carbon_otel import clock
from carbon_otel.host.identity import in_container
from carbon_otel.private_files import is_private_folder, names_in, user_id

_SHARED_MEMORY: Final = Path("/dev/shm")
_TEMPORARY: Final = (Path("/tmp"), Path("/var/tmp"))

_NAME: Final = "carbon_otel-host"

# Processes tick, and show that they live, every 30 s at least.
_SILENT_S: Final = 90.0


@dataclass(frozen=True, slots=True)
class Places:
    """The places where processes meet, in the order of preference.

    `shared` are those of `all` that this process shares with the others that it should meet.
    """

    all: tuple[Path, ...]
    shared: tuple[Path, ...]
    in_container: bool = False

    @property
    def usable(self) -> tuple[Path, ...]:
        """The places in which to meet: the shared ones, or, if there is none, all."""
        return self.shared or self.all

    @property
    def foremost(self) -> Path:
        """The folder before which no other has precedence."""
        return next(names_in(self.usable[0], _NAME))

    def is_apart(self, folder: Path) -> bool:
        """Whether others may meet elsewhere while this process is in `folder`: in a place that it prefers, too."""
        preferred = self.all[: self.all.index(folder.parent) + 1]
        return self.in_container or any(place not in self.shared for place in preferred)


def of_host() -> Places:
    """The places of this host."""
    places = host_wide()
    own, host = _mounts("self"), _mounts("1")
    # A service, or a job of a batch system, may have a private `/tmp` or `/dev/shm`. Nothing is known where the
    # mounts of the host's first process are hidden.
    shared = [place for place in places if not host or mount_of(place, own) == mount_of(place, host)]
    return Places(places, tuple(shared), in_container())


def host_wide() -> tuple[Path, ...]:
    """The folders of the whole host in which every user, or this user, may write."""
    return (_SHARED_MEMORY, Path(f"/run/user/{user_id()}"), *_TEMPORARY)


def existing(places: Sequence[Path]) -> Path | None:
    """The first folder of this user that exists."""
    return next(all_existing(places), None)


def all_existing(places: Sequence[Path]) -> Iterator[Path]:
    """The folders of this user that exist, in the order of preference."""
    return (folder for place in places for folder in names_in(place, _NAME) if is_private_folder(folder))


def found_or_made(places: Sequence[Path]) -> Path | None:
    """The folder of this user, made if there is none yet; None if none can be made."""
    found = existing(places)
    if found is not None:
        return found
    for place in places:
        for folder in names_in(place, _NAME):
            try:
                folder.mkdir(mode=0o700)
            except FileExistsError:
                if is_private_folder(folder):  # another process of this user has just made it
                    return folder
            except OSError:
                break  # the place does not exist, or is not writable
            else:
                return folder
    return None


def show_alive(folder: Path) -> None:
    """Show that processes meet here. Raises OSError."""
    os.utime(folder)


def retire(folder: Path) -> None:
    """Show that this process has left; others that meet here show again that they live. Raises OSError."""
    os.utime(folder, (0, 0))


def other_groups(own: Path, places: Sequence[Path]) -> tuple[bool, bool]:
    """Whether processes of this user meet in another folder than `own`, and whether those of other users meet.

    Other users' folders are looked for in the place of `own` and in those before it: where this user could make
    a folder, they could, too.
    """
    since_s = clock.wall() - _SILENT_S
    elsewhere = any(folder != own and _is_alive(folder, since_s) for folder in all_existing(places))
    listed = places[: places.index(own.parent) + 1]
    return elsewhere, any(_has_other_users(place, since_s) for place in listed)


def _has_other_users(place: Path, since_s: float) -> bool:
    try:
        with os.scandir(place) as entries:
            # A folder whose name has another number than its owner only occupies the name.
            return any(
                entry.name.startswith(f"{_NAME}-")
                and (owner := entry.stat(follow_symlinks=False).st_uid) != user_id()
                and entry.name.removeprefix(f"{_NAME}-").partition("-")[0] == str(owner)
                and entry.is_dir(follow_symlinks=False)
                and _is_alive(place / entry.name, since_s)
                for entry in entries
            )
    except OSError:
        return False


def _is_alive(folder: Path, since_s: float) -> bool:
    try:
        return folder.lstat().st_mtime > since_s
    except OSError:
        return False


def mount_of(folder: Path, mountinfo: str) -> tuple[str, ...] | None:
    """The mount that holds a folder, by proc_pid_mountinfo(5): device, root and mount point."""
    above = {str(folder), *map(str, folder.parents)}
    found = None
    for fields in map(str.split, mountinfo.splitlines()):
        mount = tuple(fields[2:5])
        # Of the mounts at one point, the last one hides the others.
        if len(mount) == 3 and mount[2] in above and (found is None or len(mount[2]) >= len(found[2])):
            found = mount
    return found


def _mounts(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/mountinfo").read_text(errors="replace")
    except OSError:
        return ""  # hidden from this user

"""CPU time of process trees, with all children, even those that started and ended between two calls.

A living process is read to the nanosecond through its CPU clock. When it has waited for a dead child, its account
includes the child's time (proc(5), cutime and cstime). So a tree loses nothing: the time of an ended process has
moved to a living one.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final, NamedTuple

import psutil

from carbon_otel.guard import pass_on
from carbon_otel.host.last_id import OF_HOST, PROC, LastId
from carbon_otel.units import NS_PER_S

_TICK_NS: Final = NS_PER_S // (os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100)
_STAT_BYTES: Final = 2048
_STAT_FIELDS: Final = 15
# The errors of a process that has ended, or that this user may not see.
_NOT_THERE: Final = (FileNotFoundError, ProcessLookupError, PermissionError)
# The two ways to read a process's time differ by less than this; a lower figure is that of another process.
_JITTER_NS: Final = NS_PER_S // 10


class Spent(NamedTuple):
    """CPU nanoseconds of a process so far, and of the children for which it has waited.

    `foreign` marks a process that is measured separately: its time does not belong to the tree, even after its
    end.
    """

    own_ns: int
    reaped_ns: int
    foreign: bool = False


Tree = dict[int, Spent]


def spent_ns(before: Tree, after: Tree) -> int:
    """CPU nanoseconds of a tree between two states of it."""
    ran = reaped = 0
    gone = {pid: then for pid, then in before.items() if pid not in after}
    for pid, now in after.items():
        if now.foreign:
            continue
        then = before.get(pid)
        if then is not None and then.own_ns > now.own_ns + _JITTER_NS:
            gone[pid] = then  # another process has its id
            then = None
        own_then, reaped_then = (then.own_ns, then.reaped_ns) if then is not None else (0, 0)
        ran += max(0, now.own_ns - own_then)
        reaped += now.reaped_ns - reaped_then
    # A process that exited now shows up in its parent's reaped time; subtract the part counted before.
    counted = sum(then.own_ns + then.reaped_ns for then in gone.values())
    return ran + max(0, reaped - counted)


class Processes:
    """The processes of this host, through psutil. Not thread-safe.

    `threads` is about the number of threads in the trees at the last call of `trees`, where knowing it is free.
    """

    threads = 0

    def trees(self, roots: Iterable[int], foreign: Collection[int] = ()) -> dict[int, Tree]:
        """The current trees of these processes; empty for a process that has ended.

        A `foreign` process below a root is in the tree, marked as such; its descendants are not. Raises OSError if
        the processes cannot be read, for example because this process has no file descriptor left: a tree that
        lacks a process would look as if the process had ended.
        """
        try:
            self._refresh()
            self.threads = 0
            return {root: self._tree(root, foreign) for root in roots}
        except OSError:
            self._forget_all()
            raise

    def _tree(self, root: int, foreign: Collection[int]) -> Tree:
        tree: Tree = {}
        parents: dict[int, int] = {}
        waiting = [root]
        while waiting:
            pid = waiting.pop()
            if pid in tree:
                continue
            spent = self._spent(pid)
            # What a process that ended during this walk has spent is now in the account of its parent.
            while spent is None and pid != root:
                tree.pop(pid, None)
                pid = parents.pop(pid, root)
                spent = self._spent(pid)
            if spent is None:
                return {}
            if pid in tree:
                tree[pid] = spent
                continue
            own = pid == root or pid not in foreign
            tree[pid] = spent if own else spent._replace(foreign=True)
            if own:
                children = self._children(pid)
                parents.update(dict.fromkeys(children, pid))
                waiting.extend(children)
        return tree

    def _refresh(self) -> None:
        """Update the set of processes."""

    def _forget_all(self) -> None:
        """Begin again: an error has broken off a change of the set of processes."""

    def _children(self, pid: int) -> Collection[int]:
        try:
            return [child.pid for child in psutil.Process(pid).children()]
        except psutil.Error:
            return []

    def _spent(self, pid: int) -> Spent | None:
        try:
            times = psutil.Process(pid).cpu_times()
        except psutil.Error:
            return None
        own = times.user + times.system
        reaped = getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
        return Spent(int(own * NS_PER_S), int(reaped * NS_PER_S))


class LinuxProcesses(Processes):
    """The processes of /proc.

    A call lists the folder if processes may have begun since the last one. It reads the new processes and, in the
    trees, those that have run since the last call: the others have waited for no child, and their parent matters
    once they run. Apart from the listing, the cost depends neither on threads nor on processes outside the trees.
    """

    def __init__(self, folder: Path = PROC) -> None:
        self._folder = folder
        self._last_id = OF_HOST if folder == PROC else LastId(folder)
        self._id: bytes | None = None
        # Whether no process has begun since the last call, and whether one of the trees has ended.
        self._same = self._ended = False
        self._listing: list[str] = []
        self._parent: dict[int, int] = {}
        self._below: dict[int, set[int]] = {}
        # What processes of the trees had spent by their CPU clocks, and how many threads they had.
        self._last: dict[int, tuple[Spent, int]] = {}

    def trees(self, roots: Iterable[int], foreign: Collection[int] = ()) -> dict[int, Tree]:
        found = super().trees(roots, foreign)
        return super().trees(roots, foreign) if self._ended else found

    def _refresh(self) -> None:
        # Before the listing: what begins meanwhile is found the next time.
        then, self._id = self._id, self._last_id.read()
        self._same = self._id is not None and self._id == then and not self._ended and bool(self._listing)
        self._ended = False
        if self._same:
            return
        try:
            listing = os.listdir(self._folder)  # noqa: PTH208 - thousands of names at each tick, not paths
        except FileNotFoundError as error:  # not mounted here: every tree is empty
            pass_on(error)
            return
        if listing == self._listing:
            return
        before, now = set(self._listing), set(listing)
        for name in before - now:
            if name.isdigit():
                self._forget(int(name))
        for name in now - before:
            if name.isdigit():
                self._read(int(name))
        self._listing = listing

    def _forget_all(self) -> None:
        self._listing = []
        self._parent.clear()
        self._below.clear()
        self._last.clear()

    def _children(self, pid: int) -> Collection[int]:
        return self._below.get(pid, ())

    def _spent(self, pid: int) -> Spent | None:
        try:
            # The clock of process `pid` (clock_getcpuclockid(3)), finer than the ticks in its stat file. It is
            # read first: if the process runs in between, its clock differs at the next call.
            own = time.clock_gettime_ns((~pid << 3) | 2)
        except OSError as error:
            pass_on(error)
            own = None
        last = self._last.get(pid)
        if last is not None and own is not None and self._same and not self._below.get(pid):
            # Without a child before and since, it has waited for none.
            last = self._last[pid] = last[0]._replace(own_ns=own), last[1]
        elif last is None or last[0].own_ns != own:
            fields = self._read(pid)
            if fields is None:
                self._ended = self._same
                return None
            reaped = (int(fields[13]) + int(fields[14])) * _TICK_NS
            threads = int(fields[17])
            if own is None:
                last = Spent((int(fields[11]) + int(fields[12])) * _TICK_NS, reaped), threads
            else:
                last = self._last[pid] = Spent(own, reaped), threads
        self.threads += last[1]
        return last[0]

    def _read(self, pid: int) -> list[bytes] | None:
        """The fields of /proc/PID/stat from the third on, None if it has ended; records its parent."""
        try:
            descriptor = os.open(f"{self._folder}/{pid}/stat", os.O_RDONLY)
        except _NOT_THERE as error:
            pass_on(error)
            return None
        try:
            # The name, the second field, may hold spaces and parentheses.
            fields = os.read(descriptor, _STAT_BYTES).rpartition(b")")[2].split()
        except _NOT_THERE as error:
            pass_on(error)
            return None
        finally:
            os.close(descriptor)
        if len(fields) < _STAT_FIELDS:
            raise OSError(errno.ENODATA, "has too few fields", f"{self._folder}/{pid}/stat")
        self._note_parent(pid, int(fields[1]))
        return fields

    def _note_parent(self, pid: int, parent: int) -> None:
        known = self._parent.get(pid)
        if known == parent:
            return
        if known is not None:
            self._below[known].discard(pid)
        self._parent[pid] = parent
        self._below.setdefault(parent, set()).add(pid)

    def _forget(self, pid: int) -> None:
        self._last.pop(pid, None)
        parent = self._parent.pop(pid, None)
        if parent is not None:
            self._last.pop(parent, None)  # it has waited for this process: a coarse clock may not show it
        if parent is not None and parent in self._below:
            self._below[parent].discard(pid)
        for orphan in self._below.pop(pid, ()):
            self._parent.pop(orphan, None)
            self._read(orphan)  # the kernel has given it another parent


def host_processes() -> Processes:
    """The processes of this host, read in the cheapest way that the system offers."""
    return LinuxProcesses() if sys.platform == "linux" and hasattr(time, "clock_gettime_ns") else Processes()

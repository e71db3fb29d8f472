"""CPU time of process trees: children count, also those that lived and died since the last look.

A living process is read to the nanosecond through its CPU clock. What its dead children spent is in its parent's
account once it has waited for them (proc(5), cutime and cstime), so a tree loses nothing: the time of a process
that is gone has moved to one that is there.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import psutil

from carbon_otel.units import NS_PER_S

_LINUX: Final = sys.platform == "linux"
_TICK_NS: Final = NS_PER_S // (os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100)


class Spent(NamedTuple):
    """CPU nanoseconds of a process so far, and of its children that it has waited for.

    `foreign` marks a process that answers for itself: its time is not the tree's, also when it is gone.
    """

    own_ns: int
    reaped_ns: int
    foreign: bool = False


Tree = dict[int, Spent]


def tree(root: int, foreign: Collection[int] = ()) -> Tree:
    """A process and its descendants now; empty if it is gone. Those of a `foreign` one are its own."""
    found: Tree = {}
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        own = pid == root or pid not in foreign
        spent = _spent(pid)
        if pid in found or spent is None:
            continue
        found[pid] = spent._replace(foreign=not own)
        if own:
            waiting.extend(_children(pid))
    return found


def spent_ns(before: Tree, after: Tree) -> int:
    """CPU nanoseconds of a tree between two looks at it."""
    ran = reaped = 0
    for pid, now in after.items():
        if now.foreign:
            continue
        then = before.get(pid)
        if then is None or then.own_ns > now.own_ns:
            then = Spent(0, 0)
        ran += now.own_ns - then.own_ns
        reaped += now.reaped_ns - then.reaped_ns
    # The time of the gone is now in what their parents reaped; up to the last look it has been counted.
    counted = sum(then.own_ns + then.reaped_ns for pid, then in before.items() if pid not in after)
    return ran + max(0, reaped - counted)


def _children_on_linux(pid: int) -> Iterator[int]:
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return
    for thread in threads:
        try:
            listing = (thread / "children").read_bytes()
        except OSError:
            continue
        yield from map(int, listing.split())


def _children_elsewhere(pid: int) -> Iterator[int]:
    try:
        yield from (child.pid for child in psutil.Process(pid).children())
    except psutil.Error:
        return


def _spent_on_linux(pid: int) -> Spent | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    try:
        # The clock of process `pid` (clock_getcpuclockid(3)), finer than the ticks in its stat file.
        own = time.clock_gettime_ns((~pid << 3) | 2)
    except OSError:
        own = (int(fields[11]) + int(fields[12])) * _TICK_NS
    return Spent(own, (int(fields[13]) + int(fields[14])) * _TICK_NS)


def _spent_elsewhere(pid: int) -> Spent | None:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return None
    own = times.user + times.system
    reaped = getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    return Spent(int(own * NS_PER_S), int(reaped * NS_PER_S))


_has_children_files = _LINUX and Path(f"/proc/self/task/{os.getpid()}/children").exists()
_children: Callable[[int], Iterator[int]] = _children_on_linux if _has_children_files else _children_elsewhere
_spent: Callable[[int], Spent | None] = _spent_on_linux if _LINUX else _spent_elsewhere

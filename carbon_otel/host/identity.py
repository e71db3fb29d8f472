"""Which process of which host this is, told so that another process can see whether it still lives."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
from pathlib import Path

import psutil


@functools.cache
def boot() -> str:
    """What tells one start of this host from the next."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return str(int(psutil.boot_time()))


def identity(pid: int | None = None) -> str:
    """A process of this host: its name, its start of the system, the process's namespace, id, and when it began.

    Raises psutil.NoSuchProcess.
    """
    pid = pid or os.getpid()
    return f"{socket.gethostname()}/{boot()}/{_namespace()}/{pid}/{_began(pid)}"


def is_gone(said: str) -> bool:
    """Whether this is the identity of a process of this host that is no more. False where nobody can tell."""
    host, *rest = said.split("/")
    if host != socket.gethostname() or len(rest) != 4:
        return False
    booted, namespace, pid, _ = rest
    if booted != boot():
        return True
    if namespace != _namespace():
        return False  # of another container
    with contextlib.suppress(psutil.NoSuchProcess, ValueError):
        return identity(int(pid)) != said
    return True


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return "0"


def _began(pid: int) -> str:
    """By a clock that nobody sets, where there is one."""
    process = psutil.Process(pid)
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]  # ticks since the start
    except OSError:
        return str(int(process.create_time()))

"""The identity of a process, by which a process of the same host can test whether it still lives."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
from pathlib import Path
from typing import Final, NamedTuple

import psutil

# The inode of the pid namespace of the host itself (PROC_PID_INIT_INO in Linux' include/linux/proc_ns.h).
_HOST_NAMESPACE: Final = str(0xEFFFFFFC)


class ProcessName(NamedTuple):
    """A name that no other process of this boot has: process ids repeat over time and in containers."""

    pid: int
    namespace: str
    began: str

    def __str__(self) -> str:
        return f"{self.pid}.{self.namespace}.{self.began}"

    @classmethod
    @functools.lru_cache(maxsize=1024)  # every tick asks for the same names
    def parse(cls, text: str) -> ProcessName | None:
        """The name in a text; None if the text is none."""
        pid, namespace, began = ([*text.split("."), "", ""])[:3]
        is_name = pid.isdigit() and namespace and began
        return cls(int(pid), namespace, began) if is_name and text.count(".") == 2 else None


@functools.cache
def boot() -> str:
    """An id of the current boot of the system."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return str(int(psutil.boot_time()))


def this_process() -> ProcessName:
    """The name of this process."""
    pid, began = os.getpid(), "unknown"
    with contextlib.suppress(psutil.Error):  # where /proc is not mounted
        began = _began(pid)
    return ProcessName(pid, pid_namespace(), began)


def identity(pid: int | None = None) -> str:
    """Host name, boot, process id namespace, process id and start time, joined by `/`.

    By default of this process. Raises psutil.NoSuchProcess.
    """
    pid = pid or os.getpid()
    return f"{socket.gethostname()}/{boot()}/{pid_namespace()}/{pid}/{_began(pid)}"


def is_gone(known: str) -> bool:
    """Whether the process with this identity has ended. False for a process of another host or container."""
    fields = known.split("/")
    if len(fields) != 5 or fields[0] != socket.gethostname():
        return False
    _, booted, namespace, pid, _ = fields
    if booted != boot():
        return True
    if namespace != pid_namespace():
        return False
    with contextlib.suppress(psutil.NoSuchProcess, ValueError):
        return identity(int(pid)) != known
    return True


def pid_namespace() -> str:
    """An id of this process's process id namespace; each container has a separate one."""
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return "0"


def in_container() -> bool:
    """Whether this process has a process id namespace of its own, as in a container. False where unknown."""
    return pid_namespace() not in ("0", _HOST_NAMESPACE)


def _began(pid: int) -> str:
    """The start time in ticks since boot, immune to clock changes; without /proc, in seconds."""
    process = psutil.Process(pid)
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return str(int(process.create_time()))

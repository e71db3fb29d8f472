"""The identity of a process, by which a process of the same host can test whether it still lives."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import socket
from pathlib import Path
from typing import Final, NamedTuple

import psutil

# The kernel's first process id namespace, that of the system itself, has this inode (PROC_PID_INIT_INO).
_SYSTEM_NAMESPACE: Final = "4026531836"
_MACHINE_IDS: Final = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))


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
    """Host name, boot, process id namespace, process id, start time and machine, joined by `/`.

    By default of this process. Raises psutil.NoSuchProcess.
    """
    pid = pid or os.getpid()
    return f"{socket.gethostname()}/{boot()}/{pid_namespace()}/{pid}/{_began(pid)}/{machine()}"


def is_gone(known: str) -> bool:
    """Whether the process with this identity has certainly ended.

    False for a process of another host or container, and for one that this user may not see. Hosts may have the
    same name, so another boot proves an end only on the same machine outside of containers, whose machine id is
    often that of their image.
    """
    host, booted, namespace, pid, began, of_machine = (*known.split("/"), "", "", "", "", "", "")[:6]
    if host != socket.gethostname() or namespace != pid_namespace() or not began:
        return False
    if booted != boot():
        return of_machine != "" and of_machine == machine() and namespace == _SYSTEM_NAMESPACE
    return not _may_live(pid, began)


def pid_namespace() -> str:
    """An id of this process's process id namespace; each container has a separate one."""
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return "0"


def in_container() -> bool:
    """Whether this process has a process id namespace of its own, as in a container. False where unknown."""
    return pid_namespace() not in ("0", _SYSTEM_NAMESPACE)


@functools.cache
def machine() -> str:
    """An id of this machine, a hash because the original is confidential; empty if it has none."""
    for path in _MACHINE_IDS:
        try:
            text = path.read_text().strip()
        except (OSError, ValueError):
            continue
        if text and text != "uninitialized":
            return hashlib.sha256(f"carbon_otel {text}".encode()).hexdigest()[:12]
    return ""


def _may_live(pid: str, began: str) -> bool:
    """Whether a process of this boot and namespace may live; True if that cannot be found out."""
    if not (pid.isascii() and pid.isdecimal() and 0 < int(pid[:10]) < 1 << 31 and len(pid) <= 10):
        return True
    number = int(pid)
    try:
        if os.name == "posix":
            os.kill(number, 0)  # finds processes that /proc hides (hidepid)
        elif not psutil.pid_exists(number):
            return False
    except ProcessLookupError:
        return False
    except OSError:
        return True
    try:
        return _began(number) == began
    except (psutil.Error, OSError, ValueError, IndexError):
        return True


def _began(pid: int) -> str:
    """The start time in ticks since boot, immune to clock changes; without /proc, in seconds."""
    process = psutil.Process(pid)
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return str(int(process.create_time()))

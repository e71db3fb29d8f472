"""Which counters a process reads: the same name for the same counters, whatever their path."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_HOST: Final = "host"


def view_of(powercap_root: Path | None, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """A name of the tree of counters. The kernel's own tree has one name, also where a container mounts it."""
    if powercap_root is None:
        return _HOST
    try:
        status = powercap_root.stat()
    except OSError:
        return str(powercap_root)
    device = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    for fields in map(str.split, lines):
        # The type of the file system comes after a separator (proc_pid_mountinfo(5)).
        if len(fields) > 6 and fields[2] == device and fields[fields.index("-") + 1] == "sysfs":
            return _HOST
    return f"{device}:{status.st_ino}"

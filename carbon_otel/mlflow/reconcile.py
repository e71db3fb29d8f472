"""Runs that a kill has left RUNNING: marked as KILLED, with the last checkpoint as their lower bound.

Only runs whose process was on this host and is gone, and that have not been written for a minute: a host's name
may be that of several containers, whose processes cannot be told apart from here.
"""

from __future__ import annotations

import calendar
import contextlib
import functools
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil

from carbon_otel.mlflow import naming
from carbon_otel.mlflow.pages import found_by

if TYPE_CHECKING:
    from mlflow import MlflowClient

KILLED: Final = "killed"
SILENT_S: Final = 60.0
_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"


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


def reconcile(
    client: MlflowClient, experiment_ids: list[str] | None = None, silent_s: float = SILENT_S
) -> list[str]:
    """End the runs that processes of this host have left open; their ids. Raises what the store does."""
    if experiment_ids is None:
        experiment_ids = [found.experiment_id for found in found_by(client.search_experiments)]
    left_open = "attributes.status = 'RUNNING' and tags.`carbon.status` = 'running'"
    ended: list[str] = []
    # All are found before one is ended: it would be missing on the next page.
    for run in list(found_by(client.search_runs, experiment_ids, left_open)):
        _, tags = naming.unpacked({}, run.data.tags)
        wrote_s = _wrote_s(run, tags)
        if is_gone(tags.get(naming.PROCESS, "")) and time.time() - wrote_s >= silent_s:
            client.set_tag(run.info.run_id, "carbon.status", KILLED)
            client.set_terminated(run.info.run_id, "KILLED", int(wrote_s * 1000))
            ended.append(run.info.run_id)
    return ended


def _wrote_s(run: Any, tags: Mapping[str, str]) -> float:
    try:
        return calendar.timegm(time.strptime(tags["carbon.updated_at"], _TIME))
    except (KeyError, ValueError):
        return float(run.info.start_time) / 1000

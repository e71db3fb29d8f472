"""The job of a batch system that this process belongs to, by the variables that Slurm gives to it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Final, NamedTuple

from carbon_otel.ranks import Rank

# The same in all tasks of a step, and in no other step. Job ids repeat: of a requeued job, in other clusters.
_STEP: Final = (
    "SLURM_CLUSTER_NAME",
    "SLURM_JOB_ID",
    "SLURM_RESTART_COUNT",
    "SLURM_STEP_ID",
    "SLURM_SRUN_COMM_HOST",
    "SLURM_STEP_LAUNCHER_PORT",
)


class Job(NamedTuple):
    """A job of a batch system.

    `step` is empty outside of a step of Slurm (`srun`), and `array` outside of a job array, else
    `<job of the array>_<index>`. `task` is the rank among the tasks of the step.
    """

    id: str
    step: str = ""
    array: str = ""
    task: Rank | None = None


def job_of(environment: Mapping[str, str] = os.environ) -> Job | None:
    """The job of a process with these variables; None outside of one."""
    job_id = environment.get("SLURM_JOB_ID", "")
    if not job_id:
        return None
    of_array, index = (environment.get(f"SLURM_ARRAY_{name}_ID", "") for name in ("JOB", "TASK"))
    array = f"{of_array}_{index}" if of_array and index else ""
    step = environment.get("SLURM_STEP_ID", "")
    return Job(job_id, step, array, _task(environment) if step else None)


def _task(environment: Mapping[str, str]) -> Rank | None:
    rank, of, local_rank = (
        _number(environment.get(name, ""))
        for name in ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
    )
    return Rank(rank, of, local_rank) if rank is not None and of is not None else None


def trace_id(environment: Mapping[str, str] = os.environ) -> int | None:
    """The trace of all tasks of a step, and of no other; None for one that works alone."""
    job = job_of(environment)
    if job is None or job.task is None or job.task.world_size < 2:
        return None
    text = "/".join(["carbon_otel", *(environment.get(name, "") for name in _STEP)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big") or None


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None

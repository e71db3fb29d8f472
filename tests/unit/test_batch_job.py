"""The job of a process, by the variables of Slurm 22.05."""

from __future__ import annotations

import pytest

from carbon_otel.batch_job import Job, job_of, trace_id
from carbon_otel.ranks import Rank

STEP = {
    "SLURM_CLUSTER_NAME": "north",
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "1",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_LOCALID": "0",
    "SLURM_SRUN_COMM_HOST": "10.0.0.1",
    "SLURM_STEP_LAUNCHER_PORT": "38883",
}


def test_a_process_outside_of_a_job_has_none():
    assert job_of({}) is None and trace_id({}) is None


def test_a_task_of_a_step():
    assert job_of(STEP) == Job("7", "0", "", Rank(1, 2, 0))


def test_a_batch_script_of_an_array_is_in_no_step():
    # `sbatch` gives the script a rank, too, which is none.
    script = {"SLURM_JOB_ID": "8", "SLURM_PROCID": "0", "SLURM_NTASKS": "4"}
    array = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}
    assert job_of({**script, **array}) == Job("8", "", "7_3", None)


@pytest.mark.parametrize("text", ["", "x", "-1", "1" * 40, "²"])
def test_a_rank_that_is_none(text):
    assert job_of({**STEP, "SLURM_PROCID": text}) == Job("7", "0", "", None)


def test_the_tasks_of_a_step_are_in_one_trace_and_no_others():
    other_task = {**STEP, "SLURM_PROCID": "0"}
    assert trace_id(other_task) == trace_id(STEP) != 0
    others = [
        {**STEP, "SLURM_STEP_ID": "1"},
        {**STEP, "SLURM_JOB_ID": "8"},
        {**STEP, "SLURM_CLUSTER_NAME": "south"},
        {**STEP, "SLURM_RESTART_COUNT": "1"},
    ]
    assert len({trace_id(STEP), *map(trace_id, others)}) == 5
    assert trace_id({**STEP, "SLURM_STEP_NUM_TASKS": "1"}) is None

"""Jobs of a real Slurm on one node: each joule once, and what the scheduler ends in mid-training is kept.

Five jobs run at the same time: a step of two tasks, an array of two jobs, one that is cancelled, and one that
exceeds its time limit and does not end at SIGTERM.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import carbon_otel
from carbon_otel.cli import app
from carbon_otel.lifecycle.entry import Entry
from tests.fakes import slurm
from tests.fakes.drawing import Drawing
from tests.fakes.powercap import server
from tests.integration import receivers, stored
from tests.integration.processes import PROGRAMS, wait_for

mlflow = pytest.importorskip("mlflow")

pytestmark = pytest.mark.chaos

# Extrapolation at the edges, and changes between two readings of one tick.
TOLERANCE = 0.04
TASKS = 6


class Day:
    """The jobs, and what is known of them once all have ended."""

    def __init__(self, folder: Path, uri: str, sink: receivers.Sink) -> None:
        self.folder = folder
        self.uri = uri
        self.sink = sink
        self.client = mlflow.MlflowClient(uri)
        experiment = self.client.create_experiment(f"slurm {folder}", artifact_location=folder.as_uri())
        self.pair_run = self.client.create_run(experiment).info.run_id
        self.variables = {
            "MLFLOW_TRACKING_URI": uri,
            "MLFLOW_EXPERIMENT_ID": experiment,
            "OTEL_EXPORTER_OTLP_ENDPOINT": sink.url,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "CARBON_OTEL_STATE_DIR": str(folder / "state"),
        }
        self.jobs: dict[str, str] = {}
        self.states: dict[str, str] = {}
        # The last two states of the journal of the deaf job, in joules.
        self.journal_j = [0.0, 0.0]
        self.at_cancel_j = 0.0

    def work(self, cluster: slurm.Slurm, device: Drawing) -> None:
        task = f"{sys.executable} {PROGRAMS / 'task.py'} {device.root} {self.folder}"

        def submit(name: str, script: str, *options: str, **variables: str) -> None:
            all_variables = {**self.variables, **variables}
            self.jobs[name] = cluster.submit(script, all_variables, f"--job-name={name}", *options)

        submit("limited", f"exec {task} deaf", "--time=10")
        submit("pair", f"srun {task}", "--ntasks=2", MLFLOW_RUN_ID=self.pair_run)
        submit("array", f"exec {task}", "--array=0-1")
        submit("cancelled", f"exec {task}")
        wait_for(lambda: len(self.tasks()) == TASKS)
        open_j = device.joules
        time.sleep(1)
        self.together_j = device.joules - open_j
        # What all have booked by now is in their figures, whatever ends them.
        so_far_j = {name: task["joules"] for name, task in self.tasks().items()}
        self.at_cancel_j = next(j for name, j in so_far_j.items() if name.startswith("cancelled"))
        cluster.run("scancel", self.jobs["cancelled"])
        cluster.run(
            "scontrol", "update", f"JobId={self.jobs['limited']}", "EndTime=now"
        )  # a limit has minutes
        self._wait_for_the_limit(cluster)
        (self.folder / "end").touch()
        wait_for(cluster.is_idle)
        self.states = {name: cluster.state(job) for name, job in self.jobs.items() if name != "array"}
        self.most_j = device.joules - min(task["before_j"] for task in self.tasks().values())

    def _wait_for_the_limit(self, cluster: slurm.Slurm) -> None:
        journal = self.folder / f"limited-{self.jobs['limited']}-0.journal"
        while cluster.state(self.jobs["limited"]) in ("RUNNING", "COMPLETING"):
            joules = json.loads(journal.read_text())["footprint"]["stages"]["training"]["energy_j"]
            if joules != self.journal_j[-1]:
                self.journal_j = [self.journal_j[-1], joules]
            time.sleep(0.02)

    def tasks(self) -> dict[str, dict[str, Any]]:
        """The last word of each task, by job and rank."""
        return {file.stem: json.loads(file.read_text()) for file in sorted(self.folder.glob("*.json"))}

    def runs(self, job: str) -> list[str]:
        """The ids of the runs of a job."""
        return [task["run_id"] for name, task in self.tasks().items() if name.startswith(f"{job}-")]

    def tags(self, run_id: str) -> dict[str, str]:
        return stored.tags(self.client.get_run(run_id))

    def joules(self, run_id: str) -> float:
        return self.entry(run_id).energy_wh * 3600

    def entry(self, run_id: str) -> Entry:
        entries = carbon_otel.report(run_id, tracking_uri=self.uri).entries
        return next(entry for entry in entries if entry.run_id == run_id)


@pytest.fixture(scope="module")
def day(tmp_path_factory, tracking_server) -> Iterator[Day]:
    if lacking := slurm.missing():
        pytest.skip(f"needs {lacking}")
    folder = tmp_path_factory.mktemp("slurm")
    with contextlib.ExitStack() as stack:
        device = stack.enter_context(Drawing(server(folder / "sys"), zones=1, watts=50))
        sink = stack.enter_context(receivers.serving(receivers.Receiver))
        cluster = stack.enter_context(slurm.running())
        day = Day(folder, tracking_server.url, sink)
        day.work(cluster, device)
        sync = ["mlflow", "sync", "--tracking-uri", day.uri]
        sent = CliRunner().invoke(app, sync, env={"CARBON_OTEL_STATE_DIR": str(folder / "state")})
        assert sent.exit_code == 0, sent.output
        yield day


def test_two_tasks_of_a_step_are_one_run_and_one_trace(day):
    assert set(day.runs("pair")) == {day.pair_run}
    tags = day.tags(day.pair_run)
    assert tags["carbon.job_id"] == day.jobs["pair"] and tags["carbon.job_step"] == "0"
    assert tags["carbon.status"] == "final" and tags["carbon.segments"] == "2"
    of_job = {
        resource["carbon_otel.rank"]: (resource, span)
        for resource, span in spans(day.sink)
        if resource.get("carbon_otel.job.id") == day.jobs["pair"] and span.name == "training"
    }
    assert sorted(of_job) == [0, 1]
    assert len({span.trace_id for _, span in of_job.values()}) == 1
    for resource, _ in of_job.values():
        assert resource["carbon_otel.world_size"] == 2 and resource["carbon_otel.job.step"] == "0"


def test_jobs_of_an_array_are_runs_and_traces_of_their_own(day):
    runs = day.runs("array")
    assert len(set(runs)) == 2
    assert {day.tags(run)["carbon.job_array"] for run in runs} == {f"{day.jobs['array']}_{n}" for n in (0, 1)}
    assert {day.tags(run)["carbon.status"] for run in runs} == {"final"}
    of_array = [s for r, s in spans(day.sink) if "carbon_otel.job.array" in r and s.name == "training"]
    assert len({span.trace_id for span in of_array}) == 2


def test_a_cancelled_job_counts_up_to_its_signal(day):
    (run,) = day.runs("cancelled")
    assert day.states["cancelled"] == "CANCELLED"
    assert day.joules(run) >= day.at_cancel_j
    assert day.entry(run).lower_bound == "has not ended in order"


def test_a_job_beyond_its_time_limit_loses_a_checkpoint_at_most_and_says_so(day):
    (run,) = day.runs("limited")
    assert day.states["limited"] == "TIMEOUT"
    assert (day.folder / "asked").exists()  # it went on, and was killed
    # The journal may be one checkpoint ahead.
    assert 0 < day.journal_j[0] <= day.joules(run) * (1 + 1e-9)
    assert day.entry(run).lower_bound == "has not ended in order"


def test_all_jobs_of_the_node_count_each_joule_once(day):
    runs = {run for job in day.jobs for run in day.runs(job)}
    assert len(runs) == TASKS - 1
    total_j = sum(map(day.joules, runs))
    assert day.together_j * (1 - TOLERANCE) < total_j < day.most_j * (1 + TOLERANCE)


def spans(sink: receivers.Sink) -> Iterator[tuple[dict[str, Any], Any]]:
    """Each span, with the attributes of its resource."""
    for resource in sink.resource_spans():
        attributes = {
            a.key: a.value.int_value if a.value.HasField("int_value") else a.value.string_value
            for a in resource.resource.attributes
        }
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield attributes, span

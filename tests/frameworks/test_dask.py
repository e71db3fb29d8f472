"""Dask: stages in tasks are in the trace and in the run of the stage that submits them; each joule counts once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import carbon_otel
from tests.fakes.drawing import Drawing
from tests.fakes.powercap import server
from tests.frameworks import books

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")

JOB = Path(__file__).with_name("programs") / "dask_job.py"
# As for other tests of several processes: extrapolation at the edges, and changes between two readings of a tick.
TOLERANCE = 0.04


def measure(number: int) -> int:
    with carbon_otel.stage("training", f"fit {number}"):
        return sum(range(200_000))


def whole(number: int) -> int:
    return sum(range(number))


@pytest.fixture(scope="module")
def client():
    with (
        distributed.LocalCluster(1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture
def cluster(tmp_path):
    """Runs the program with a cluster of processes, over a package that draws 50 W."""

    def run(work: str) -> dict:
        (tmp_path / "state").mkdir()
        with Drawing(server(tmp_path / "sys"), zones=1, watts=50) as package:
            done = subprocess.run(
                [
                    *(sys.executable, str(JOB), f"sqlite:///{tmp_path}/runs.db"),
                    *(str(package.root), str(tmp_path / "state"), work),
                ],
                env={**os.environ, "CARBON_OTEL_RUNTIME_DIR": str(tmp_path / "state")},
                capture_output=True,
                text=True,
                timeout=240,
                check=False,
            )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


def assert_adds_up(found: dict) -> None:
    """Runs + unattributed = the books of all processes = the device."""
    energy_j = sum(book[0] for book in found["books"])
    nobody_j = sum(book[1] for book in found["books"])
    assert sum(found["runs"]) + nobody_j == pytest.approx(energy_j, rel=TOLERANCE)
    at_least, at_most = found["device"]
    assert at_least * (1 - TOLERANCE) < energy_j < at_most * (1 + TOLERANCE)


def test_stages_of_workers_are_in_the_trace_and_in_the_run(cluster):
    found = cluster("measures")
    assert_adds_up(found)
    assert len(found["books"]) == 3
    outer = {each["id"]: each for each in found["spans"] if each["name"].startswith("outer")}
    inner = [each for each in found["spans"] if each["name"].startswith("fit")]
    assert len(inner) == 8
    for each in inner:
        assert each["parent"] in outer and each["trace"] == outer[each["parent"]]["trace"]
    assert len({each["parent"] for each in inner}) == 2


def test_workers_that_only_compute_are_paid_by_the_run(cluster):
    found = cluster("computes")
    assert_adds_up(found)
    assert len(found["books"]) == 1
    assert {each["name"][:5] for each in found["spans"]} == {"outer", "mlflo"}


def test_stages_of_threads_are_children_of_the_stage_that_submits(client, stages):
    with carbon_otel.stage("training", "first"):
        client.gather(client.map(measure, range(3), pure=False))
    with carbon_otel.stage("evaluation", "second"):
        dask.compute(*(dask.delayed(measure)(number) for number in range(2)))
    client.submit(measure, 9, pure=False).result()
    ended = sorted((each.name, each.parent or "") for each in books.check(stages))
    assert ended == [
        ("first", ""),
        *[
            ("fit 0", "first"),
            ("fit 0", "second"),
            ("fit 1", "first"),
            ("fit 1", "second"),
            ("fit 2", "first"),
        ],
        ("fit 9", ""),
        ("second", ""),
    ]


def test_the_keys_of_tasks_stay_the_same(client, stages):
    before = client.submit(whole, 10)
    with carbon_otel.stage("training"):
        within = client.submit(whole, 10)
    assert within.key == before.key and within.result() == before.result() == 45


@pytest.mark.parametrize("scheduler", ["threads", "sync"])
def test_schedulers_without_a_cluster(stages, scheduler):
    with carbon_otel.stage("training", "outer"):
        dask.compute(*(dask.delayed(measure)(number) for number in range(2)), scheduler=scheduler)
    assert {(each.name, each.parent) for each in books.check(stages)} == {
        ("fit 0", "outer"),
        ("fit 1", "outer"),
        ("outer", None),
    }

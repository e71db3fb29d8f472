"""A run that hands work to other processes has the energy of that work, whatever starts the processes."""

from __future__ import annotations

import json
import multiprocessing

import pytest

from tests.fakes.drawing import Drawing
from tests.fakes.powercap import server

mlflow = pytest.importorskip("mlflow")
pytest.importorskip("joblib")

pytestmark = pytest.mark.chaos

METHODS = [m for m in ("fork", "spawn", "forkserver") if m in multiprocessing.get_all_start_methods()]
WAYS = [f"{kind}-{method}" for kind in ("pool", "executor", "process") for method in METHODS]

# As for other tests of several processes: extrapolation at the edges, and changes between two readings of a tick.
TOLERANCE = 0.04


@pytest.fixture
def handed(tmp_path, launch, empty_store):
    """Runs the program `handed.py`, whose package draws 50 W; returns what it prints."""

    def run(*arguments: str) -> dict:
        uri = empty_store.copy(tmp_path)
        with Drawing(server(tmp_path / "sys"), zones=1, watts=50) as package:
            program = launch("handed.py", uri, str(package.root), str(tmp_path / "state"), *arguments)
            return json.loads(program.finish().splitlines()[-1])

    (tmp_path / "state").mkdir()
    return run


def assert_adds_up(found: dict) -> None:
    """Runs + unattributed = the books of all processes = the device."""
    assert found["run"] + found["unattributed"] == pytest.approx(found["books"], rel=TOLERANCE)
    at_least, at_most = found["device"]
    assert at_least * (1 - TOLERANCE) < found["books"] < at_most * (1 + TOLERANCE)


@pytest.mark.parametrize("way", WAYS)
def test_stages_of_other_processes_are_in_the_run(handed, way):
    found = handed(way, "measures", "closes")
    assert_adds_up(found)
    assert found["training"] == pytest.approx(found["stages"], rel=1e-6)
    assert (found["status"], found["parts"]) == ("final", 3)
    # The parent, and the processes that were forked from it.
    assert found["mlflow"] == (3 if way.endswith("-fork") else 1)


@pytest.mark.parametrize("way", ["pool-fork", "joblib-multiprocessing"])
def test_a_pool_that_is_terminated_after_its_last_task_loses_no_stage(handed, way):
    found = handed(way, "measures", "terminates")
    assert found["training"] == pytest.approx(found["stages"], rel=1e-6)
    assert (found["status"], found["parts"]) == ("final", 3)


@pytest.mark.parametrize("way", ["pool-fork", "executor-fork", "joblib-loky"])
def test_workers_that_only_compute_are_paid_by_the_run(handed, way):
    found = handed(way, "computes", "closes")
    assert_adds_up(found)
    assert (found["status"], found["parts"]) == ("final", 1)


def test_threads_of_joblib(handed):
    found = handed("joblib-threading", "measures", "closes")
    assert_adds_up(found)
    assert found["training"] == pytest.approx(found["stages"], rel=1e-6)
    assert (found["status"], found["parts"]) == ("final", 1)


@pytest.mark.parametrize("way", ["process-fork", "process-spawn"])
def test_a_process_that_is_killed_at_work_leaves_a_lower_bound(handed, way, empty_store, tmp_path):
    found = handed(way, "measures", "killed")
    assert (found["status"], found["parts"]) == ("running", 2)
    assert found["training"] > 0
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert client.get_run(found["run_id"]).info.status == "FINISHED"

"""A run that hands work to other processes has the energy of that work, whatever starts the processes."""

from __future__ import annotations

import json

import pytest

from tests.fakes.drawing import Drawing
from tests.fakes.powercap import server

mlflow = pytest.importorskip("mlflow")
pytest.importorskip("joblib")

pytestmark = pytest.mark.chaos

# As for other tests of several processes: extrapolation at the edges, and changes between two readings of a tick.
TOLERANCE = 0.04


@pytest.fixture
def handed(tmp_path, launch, empty_store):
    """Runs the program `handed.py`, whose package draws 50 W; returns what it prints."""

    def run(*runs: str) -> dict:
        uri = empty_store.copy(tmp_path)
        with Drawing(server(tmp_path / "sys"), zones=1, watts=50) as package:
            program = launch("handed.py", uri, str(package.root), str(tmp_path / "state"), *runs)
            return json.loads(program.finish(300).splitlines()[-1])

    (tmp_path / "state").mkdir()
    return run


def assert_adds_up(found: dict) -> None:
    """Runs + unattributed = the books of all processes = the device."""
    runs_j = sum(run["run"] for run in found["runs"].values())
    books = found["books"]
    assert runs_j + books["unattributed"] == pytest.approx(books["all"], rel=TOLERANCE)
    at_least, at_most = found["device"]
    assert at_least * (1 - TOLERANCE) < books["all"] < at_most * (1 + TOLERANCE)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_stages_of_other_processes_are_in_the_run(handed, method):
    kinds = ("pool", "executor", "process")
    found = handed(*(f"{kind}-{method}-measures-closes" for kind in kinds))
    assert_adds_up(found)
    for run in found["runs"].values():
        assert run["training"] == pytest.approx(run["stages"], rel=1e-6)
        assert (run["status"], run["parts"]) == ("final", 3)
    # Only a process that was forked from one with MLflow has it.
    assert found["books"]["mlflow"] == (7 if method == "fork" else 1)


def test_a_pool_that_is_terminated_after_its_last_task_loses_no_stage(handed):
    found = handed("pool-fork-measures-terminates", "joblib-multiprocessing-measures-terminates")
    for run in found["runs"].values():
        assert run["training"] == pytest.approx(run["stages"], rel=1e-6)
        assert (run["status"], run["parts"]) == ("final", 3)


def test_workers_that_only_compute_and_threads_are_paid_by_the_run(handed):
    ways = ("pool-fork", "executor-fork", "pool-spawn", "executor-forkserver", "joblib-loky")
    found = handed(*(f"{way}-computes-closes" for way in ways), "joblib-threading-measures-closes")
    assert_adds_up(found)
    assert found["books"]["processes"] == 1
    for run in found["runs"].values():
        assert run["training"] == pytest.approx(run["stages"], rel=1e-6)
        assert (run["status"], run["parts"]) == ("final", 1)


def test_a_process_that_is_killed_at_work_leaves_a_lower_bound(handed):
    found = handed("process-fork-measures-killed", "process-spawn-measures-killed")
    for run in found["runs"].values():
        assert (run["status"], run["parts"]) == ("running", 2)
        assert run["training"] > 0

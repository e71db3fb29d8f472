"""Runs that are marked as KILLED: only those whose processes have all certainly ended, with their last figures."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from carbon_otel.host.identity import identity
from carbon_otel.mlflow.runs import orphans
from carbon_otel.mlflow.schema import contributions
from carbon_otel.mlflow.schema.contributions import Contribution
from tests.unit.test_checked import FIGURES, Page, run

pytest.importorskip("mlflow")

ALIVE = identity()
GONE = "/".join([*ALIVE.split("/")[:4], "1", ALIVE.split("/")[5]])
ELSEWHERE = "other-" + ALIVE


class Client:
    """A store with these runs. It keeps what is written to them; `refused` are runs that accept nothing."""

    def __init__(self, *runs, refused=()):
        self.runs, self.refused = runs, refused
        self.points, self.ended = [], []

    def search_experiments(self, page_token=None):
        return Page([SimpleNamespace(experiment_id="1")])

    def search_runs(self, experiments, condition="", page_token=None):
        return Page(self.runs)

    def log_batch(self, run_id, metrics=(), params=(), tags=()):
        if run_id in self.refused:
            raise RuntimeError("no")
        self.points += metrics

    def set_terminated(self, run_id, status, end_time):
        self.ended.append(run_id)


def left_open(run_id="r", process=GONE, parts=(), tags=()):
    """`process` is in the tags of runs of earlier versions; now only the parts have it."""
    tags = {"carbon.status": "running", **dict(tags)}
    if process is not None:
        tags["carbon.process"] = process
    for number, part in enumerate(parts):
        tags |= part.written(f"p{number}")
    return run(tags=tags, run_id=run_id, start_time=1_700_000_000_000)


def part(process, final=False, wh=1.0):
    return Contribution({"carbon/energy_wh": wh}, final=final, process=process)


@pytest.mark.parametrize(
    ("process", "parts", "marked"),
    [
        (GONE, [], True),
        (ALIVE, [], False),  # its store may have been down for hours
        (ELSEWHERE, [], False),
        (GONE, [part(GONE)], True),
        (GONE, [part(GONE), part(GONE)], True),
        (GONE, [part(GONE), part(ALIVE)], False),
        (GONE, [part(GONE), part(ELSEWHERE)], False),
        (GONE, [part(GONE), part(ALIVE, final=True)], True),
        (GONE, [part("")], True),  # of version 0.1
        (GONE, [part(""), part(GONE)], False),
        (None, [part(GONE)], True),
        (None, [part(ALIVE)], False),
        (None, [part(GONE), part(ALIVE)], False),
        (None, [part(GONE), part(ALIVE, final=True)], True),
        # Its parts have ended in order, but a process may not have added them up yet.
        (None, [part(GONE, final=True), part(ALIVE, final=True)], False),
        (None, [part(GONE, final=True)], True),
        (None, [part("")], False),
        (None, [], False),
    ],
    ids=range(18),  # the identities differ between the processes of a test run
)
def test_a_run_is_marked_if_every_process_that_writes_to_it_has_ended(process, parts, marked):
    client = Client(left_open(process=process, parts=parts))
    assert orphans.reconcile(client) == client.ended == (["r"] if marked else [])


@pytest.mark.parametrize(
    ("process", "parts"), [(GONE, [part(GONE)]), (None, [part(GONE)]), (None, [])], ids=range(3)
)
def test_a_run_with_a_cut_part_may_have_a_living_process(process, parts):
    cut = {f"{contributions.PREFIX}x": '{"values":{"carbon/ener'}
    client = Client(left_open(process=process, parts=parts, tags=cut))
    assert orphans.find(client).unreadable == ["r: a tag mlflow.carbon_otel.* is cut or was changed"]
    assert orphans.reconcile(client) == []


def test_the_run_gets_the_sums_of_its_last_checkpoint_as_metrics():
    """Its curves and bars have fewer points than it had checkpoints."""
    sums = {**FIGURES, "carbon/energy_wh": 9.0, "carbon/inference/energy_wh": 9.0}
    client = Client(left_open(parts=[Contribution(sums, process=GONE)]))
    orphans.reconcile(client)
    assert {(point.key, point.value, point.step) for point in client.points} == {
        ("carbon/energy_wh", 9.0, 2),
        ("carbon/inference/energy_wh", 9.0, 1),
        # It had no metric yet, so its line begins at zero.
        ("system/carbon/components/cpu_wh", 0.0, 0),
        ("system/carbon/components/cpu_wh", 3.0, 1),
        # A bar: its points have one step.
        ("carbon/inference/j_per_1k_requests", 9.0 * 3600 / 10 * 1000, 0),
    }
    # MLflow shows the point of the last step and time.
    assert all(point.timestamp > 1_700_000_000_000 for point in client.points if point.value)


def test_the_run_gets_joules_per_unit_of_work_as_at_its_end():
    sums = {
        "carbon/energy_wh": 1.0,
        "carbon/training/energy_wh": 1.0,
        "carbon/units/training/samples": 2000.0,
    }
    client = Client(left_open(process=None, parts=[Contribution(sums, process=GONE)]))
    orphans.reconcile(client)
    assert {p.key: p.value for p in client.points}["carbon/training/j_per_1k_samples"] == 1800.0


def test_a_run_that_cannot_be_ended_delays_no_other(caplog):
    client = Client(left_open("bad"), left_open("good"), refused=["bad"])
    assert orphans.reconcile(client) == ["good"]
    assert "the killed run bad cannot be ended: no" in caplog.text

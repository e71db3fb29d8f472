"""Stages outside of runs: with a `lineage` they are entries of its ledger, and each joule is in one entry."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

import carbon_otel
from tests.fakes.drawing import trickle
from tests.integration.processes import wait_for
from tests.integration.stores import tracking

mlflow = pytest.importorskip("mlflow")


@pytest.fixture(scope="module")
def uri(tmp_path_factory, empty_store):
    folder = tmp_path_factory.mktemp("jobs")
    with tracking(empty_store.copy(folder)) as found:
        mlflow.create_experiment("runs", artifact_location=folder.as_uri())
        yield found


@pytest.fixture
def draw(uri, tree):
    def begin(lineage):
        carbon_otel.instrument(
            zone="FR", powercap_root=tree.root, interval_s=0.05, checkpoint_interval_s=0.2, lineage=lineage
        )

        def joules(amount):
            for _ in range(amount):
                time.sleep(0.01)
                tree.package[0].add(1)

        return joules

    with trickle(tree.package[0]):
        yield begin
        carbon_otel.uninstrument()


def by_stage(found):
    return {kind: wh * 3600 for kind, (wh, _) in found.by_stage.items()}


def test_a_job_that_prepares_data(uri, draw):
    joules = draw("churn")
    with carbon_otel.stage("data_processing") as outer:
        joules(20)
        with carbon_otel.stage("evaluation") as inner:
            joules(10)
            inner.units(samples=5)
        joules(20)
        outer.units(rows=7)
    carbon_otel.uninstrument()
    found = carbon_otel.report("churn", tracking_uri=uri)
    (entry,) = found.entries
    assert entry.status == "FINISHED" and entry.lower_bound is None and entry.is_window
    assert entry.name == "data_processing outside of runs"
    # A busy machine charges some of the joules in advance, so the stages are compared with themselves.
    own = {"data_processing": outer.footprint.exclusive_j, "evaluation": inner.footprint.exclusive_j}
    assert by_stage(found) == pytest.approx(own, rel=1e-6)
    assert found.total.energy_wh * 3600 == pytest.approx(outer.footprint.energy_j, rel=1e-9)
    assert found.total.emissions_g == pytest.approx(outer.footprint.emissions_g, rel=1e-9)
    # The window has the relative uncertainty of the process, the stage that of its edges.
    assert found.total.low_wh < found.total.energy_wh < found.total.high_wh
    assert entry.units == {"evaluation/samples": 5, "data_processing/rows": 7}
    assert entry.duration_s == pytest.approx(outer.footprint.duration_s)
    assert sum(entry.components.values()) == pytest.approx(entry.energy_wh)


def test_a_run_within_a_stage_is_an_entry_of_its_own(uri, draw):
    joules = draw("nested")
    experiment = mlflow.get_experiment_by_name("runs").experiment_id
    with carbon_otel.stage("data_processing") as outer:
        joules(20)
        with mlflow.start_run(experiment_id=experiment), carbon_otel.stage("training") as training:
            joules(30)
        joules(20)
    carbon_otel.uninstrument()
    found = carbon_otel.report("nested", tracking_uri=uri)
    assert len(found.entries) == 2
    assert found.total.energy_wh * 3600 == pytest.approx(outer.footprint.energy_j, rel=1e-9)
    assert by_stage(found)["training"] == pytest.approx(training.footprint.energy_j, rel=1e-6)


def test_many_short_stages_are_one_entry(uri, draw):
    joules = draw("service")
    for _ in range(300):
        with carbon_otel.stage("inference") as request:
            request.units(requests=1)
    with carbon_otel.stage("inference") as last:
        joules(10)
        last.units(requests=1)
    carbon_otel.uninstrument()
    (entry,) = carbon_otel.report("service", tracking_uri=uri).entries
    assert entry.units == {"inference/requests": 301}


def test_without_a_lineage_stages_are_no_entry(uri, draw):
    client = mlflow.MlflowClient(uri)
    joules = draw(None)
    before = {run.info.run_id for run in client.search_runs(ids(client))}
    with carbon_otel.stage("data_processing"):
        joules(5)
    carbon_otel.uninstrument()
    assert {run.info.run_id for run in client.search_runs(ids(client))} == before


def ids(client):
    return [experiment.experiment_id for experiment in client.search_experiments()]


KILLED = """
import sys, time
import mlflow, carbon_otel
uri, root = sys.argv[1:]
mlflow.set_tracking_uri(uri)
carbon_otel.instrument(zone="FR", powercap_root=root, interval_s=0.05, checkpoint_interval_s=0.1, lineage="killed")
with carbon_otel.stage("data_processing"):
    print("open", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.chaos
def test_a_job_that_is_killed_keeps_its_last_checkpoint(uri, tree):
    job = subprocess.Popen(
        [sys.executable, "-c", KILLED, uri, str(tree.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert job.stdout.readline() == "open\n"

    def seen():
        try:
            return carbon_otel.report("killed", tracking_uri=uri).total.energy_wh * 3600
        except LookupError:
            return 0.0

    with trickle(tree.package[0]):
        for _ in range(20):
            time.sleep(0.01)
            tree.package[0].add(1)
        wait_for(lambda: seen() >= 19)
    os.kill(job.pid, signal.SIGKILL)
    job.communicate()
    (entry,) = carbon_otel.report("killed", tracking_uri=uri).entries
    assert entry.energy_wh * 3600 >= 19 and entry.lower_bound == "has not ended in order"

"""Measuring never waits for delivery, and no backend waits for another."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

import carbon_otel
from carbon_otel import runtime
from carbon_otel.mlflow.delivery.spool import Spool
from carbon_otel.sinks import Sink

mlflow = pytest.importorskip("mlflow")


class Ticks(Sink):
    """Lets a test wait for ticks."""

    def __init__(self):
        self._seen = 0
        self._changed = threading.Condition()

    def tick(self, tick):
        with self._changed:
            self._seen += 1
            self._changed.notify_all()

    def wait(self, number):
        """Wait for this number of further ticks."""
        with self._changed:
            enough = self._seen + number
            assert self._changed.wait_for(lambda: self._seen >= enough, 60)


def draw(tree, ticks):
    """2 J, at 10 W or less."""
    for _ in range(20):
        tree.package[0].add(0.1)
        ticks.wait(2)


class Hanging:
    """A state folder whose writes do not return until `go` is set."""

    def __init__(self, monkeypatch):
        self.reached, self.go = threading.Event(), threading.Event()
        self.gave_up = False
        put = Spool.put

        def hang(spool, *arguments):
            self.reached.set()
            self.gave_up |= not self.go.wait(120)
            return put(spool, *arguments)

        monkeypatch.setattr(Spool, "put", hang)


@pytest.fixture
def hanging_folder(monkeypatch):
    folder = Hanging(monkeypatch)
    yield folder
    folder.go.set()


@pytest.mark.timeout(300)
def test_a_state_folder_that_hangs_costs_no_tick_no_stage_and_no_joule(tree, tmp_path, hanging_folder):
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    carbon_otel.instrument(
        zone="FR",
        powercap_root=tree.root,
        interval_s=0.01,
        checkpoint_interval_s=0.01,
        lineage="churn",
        state_dir=tmp_path / "state",
    )
    try:
        ticks = Ticks()
        runtime.active().add_sink(ticks)
        experiment = mlflow.create_experiment("churn", artifact_location=tmp_path.as_uri())
        with mlflow.start_run(experiment_id=experiment) as run:
            assert hanging_folder.reached.wait(60)
            with carbon_otel.stage("training") as training:
                draw(tree, ticks)
            for _ in range(100):
                with carbon_otel.stage("evaluation"):
                    pass
        with carbon_otel.stage("inference") as outside_of_runs:
            draw(tree, ticks)
        assert outside_of_runs.footprint.energy_j > 1
        assert not hanging_folder.go.is_set() and not hanging_folder.gave_up
        hanging_folder.go.set()
        assert carbon_otel.flush(60)
        metrics = mlflow.get_run(run.info.run_id).data.metrics
        assert metrics["carbon/training/energy_wh"] * 3600 == pytest.approx(training.footprint.energy_j)
    finally:
        hanging_folder.go.set()
        carbon_otel.uninstrument()
        mlflow.set_tracking_uri(None)


PROGRAM = """
import sys, mlflow, carbon_otel
uri, experiment = sys.argv[1:]
mlflow.set_tracking_uri(uri)
carbon_otel.instrument(zone="FR")
with mlflow.start_run(experiment_id=experiment) as run:
    for number in range(5):
        with carbon_otel.stage("training", f"fit {number}"): sum(range(100_000))
    print(run.info.run_id)
"""

# MLflow's client waits for its server. Its requests are answered, those of carbon_otel hang.
HANGING_MLFLOW = """
import sys, threading, carbon_otel
from carbon_otel.mlflow.delivery import uploader
import mlflow
def hang(*arguments, **keywords): threading.Event().wait()
uploader.Uploader.send = hang
"""


def run(program, *arguments, **variables):
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def store(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = mlflow.MlflowClient(uri)
    return client, uri, client.create_experiment("churn", artifact_location=tmp_path.as_uri())


def variables(tmp_path, endpoint):
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "CARBON_OTEL_STATE_DIR": str(tmp_path / "state"),
        "MLFLOW_ENABLE_OTLP_EXPORTER": "false",
    }


def test_where_mlflow_hangs_every_span_and_metric_reaches_a_healthy_collector(store, sink, tmp_path):
    _, uri, experiment = store
    run(HANGING_MLFLOW + PROGRAM, uri, experiment, **variables(tmp_path, sink.url))
    assert {span.name for span in sink.spans()} == {f"fit {number}" for number in range(5)} | {"mlflow.run"}
    assert {"carbon_otel.stage.energy", "carbon_otel.stage.duration", "hw.energy"} <= sink.metrics().keys()
    durations = sink.metrics()["carbon_otel.stage.duration"].histogram.data_points
    assert sum(point.count for point in durations) == 6


# An early export of the metrics has begun, so the providers take all of the time that the exit may take.
EXPORTING = """
    import time
    from carbon_otel import runtime
    while runtime.active().providers._sending is None: time.sleep(0.01)
"""


@pytest.mark.parametrize("program", [PROGRAM, PROGRAM + EXPORTING], ids=["idle", "exporting"])
def test_where_the_collector_hangs_every_figure_reaches_a_healthy_mlflow(store, hanging, tmp_path, program):
    client, uri, experiment = store
    run_id = run(program, uri, experiment, **variables(tmp_path, hanging)).split()[-1]
    data = client.get_run(run_id).data
    assert data.tags["carbon.status"] == "final"
    assert data.metrics["carbon/training/energy_wh"] > 0
    assert not list((tmp_path / "state" / "mlflow").glob("*.spool"))

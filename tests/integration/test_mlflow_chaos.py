"""Kills at random moments, and many writers of one model's ledger at once."""

from __future__ import annotations

import json
import os
import random
import signal
import statistics

import pytest
from typer.testing import CliRunner

import carbon_otel
from carbon_otel.cli import app
from tests.integration.servers import MlflowServer

mlflow = pytest.importorskip("mlflow") if not os.environ.get("CI") else __import__("mlflow")

pytestmark = pytest.mark.chaos
KILLS = 50
CHECKPOINT_S = 0.5
REPLICAS = 8
SERVED_S = 60.0
WATTS = 20.0


@pytest.fixture
def default_store():
    before = mlflow.get_tracking_uri()
    yield
    mlflow.set_tracking_uri(before)


def test_fifty_kills_at_random_moments(launch, drawing, tmp_path, default_store):
    uri, state = f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "state"
    mlflow.MlflowClient(uri).search_experiments()  # makes the tables
    parent = launch("kills.py", uri, str(drawing), str(state), str(CHECKPOINT_S))
    moment = random.Random(504)
    said: dict[str, list[tuple[float, float]]] = {}
    for _ in range(KILLS):
        parent.go()
        pid, run_id, points = 0, "", []
        lines = iter(parent.line, "gone")
        kill_at = 0.0
        for line in lines:
            assert line, parent.finish()
            words = line.split()
            if len(words) == 2:
                points.append((float(words[0]), float(words[1])))
                kill_at = kill_at or points[0][0] + moment.uniform(0.2, 2.0)
            elif line.isdigit():
                pid = int(line)
            else:
                run_id = line
            if kill_at and points[-1][0] >= kill_at and pid:
                os.kill(pid, signal.SIGKILL)
                pid = 0
        said[run_id] = points
    done = CliRunner().invoke(
        app, ["mlflow", "sync", "--tracking-uri", uri], env={"CARBON_OTEL_STATE_DIR": str(state)}
    )
    assert done.exit_code == 0, done.output
    client = mlflow.MlflowClient(uri)
    lost_s = []
    for run_id, points in said.items():
        recorded = client.get_run(run_id).data.metrics.get("carbon/training/energy_wh", 0.0) * 3600
        first_s, last_s = points[0][0], points[-1][0]
        lost_s.append(last_s - max((at for at, joules in points if joules <= recorded), default=first_s))
        assert (
            recorded <= points[-1][1] + 2 * WATTS * CHECKPOINT_S
        )  # what was spent after it was last printed
    print(f"{KILLS} kills: lost {statistics.median(lost_s):.2f} s in the median, {max(lost_s):.2f} s at most")
    assert len(said) == KILLS
    # A checkpoint interval, and what a busy machine adds to it.
    assert statistics.median(lost_s) <= CHECKPOINT_S
    assert max(lost_s) <= CHECKPOINT_S + 0.5


MODEL = """
import mlflow
class Model(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return [sum(i * i for i in range(2000)) for _ in model_input]
mlflow.models.set_model(Model())
"""


def test_eight_replicas_of_one_model_for_a_minute(launch, drawing, tmp_path, default_store):
    server = MlflowServer(tmp_path)
    server.start()
    try:
        mlflow.set_tracking_uri(server.url)
        mlflow.set_experiment("scores")
        (tmp_path / "model.py").write_text(MODEL)
        with mlflow.start_run():
            model = mlflow.pyfunc.log_model(name="model", python_model=str(tmp_path / "model.py"))
        arguments = (server.url, str(drawing), str(tmp_path / "state"), model.model_uri)
        served = launch("replicas.py", *arguments, str(REPLICAS), str(SERVED_S))
        parts = json.loads(served.finish(timeout=SERVED_S + 240).splitlines()[-1])
        assert [written for _, _, written in parts] == [True] * REPLICAS, served.err
        report = carbon_otel.report(model.model_id, tracking_uri=server.url)
    finally:
        server.kill()
    joules = sum(part for part, _, _ in parts)
    assert report.by_stage["inference"][0] * 3600 == pytest.approx(joules, rel=1e-12)
    assert sum(e.units["inference/requests"] for e in report.entries) == sum(calls for _, calls, _ in parts)
    print(f"{REPLICAS} replicas: {len(report.entries)} entries, {joules:.1f} J, sum exact to 1e-12")
    assert len(report.entries) > REPLICAS * SERVED_S / 2 / 2
    assert report.lower_bounds == ()

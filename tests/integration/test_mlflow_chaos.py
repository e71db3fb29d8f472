"""Kills at random moments, and many writers of one model's ledger at the same time."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import statistics

import pytest
from typer.testing import CliRunner

import carbon_otel
from carbon_otel.cli import app
from tests.integration import stored
from tests.integration.soak import brief_and_long
from tests.integration.stores import tracking

mlflow = pytest.importorskip("mlflow")

pytestmark = pytest.mark.chaos
CHECKPOINT_S = 0.5
REPLICAS = 8
WATTS = 20.0


def sync(uri, state):
    environment = {"CARBON_OTEL_STATE_DIR": str(state)}
    done = CliRunner().invoke(app, ["mlflow", "sync", "--tracking-uri", uri], env=environment)
    assert done.exit_code == 0, done.output


@brief_and_long("kills", 6, 50)
def test_kills_at_random_moments(kills, launch, drawing, tmp_path, empty_store):
    uri, state = empty_store.copy(tmp_path), tmp_path / "state"
    parent = launch("kills.py", uri, str(drawing.root), str(state), str(CHECKPOINT_S))
    moment = random.Random(504)
    printed: dict[str, list[tuple[float, float]]] = {}
    for _ in range(kills):
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
        printed[run_id] = points
    sync(uri, state)
    client = mlflow.MlflowClient(uri)
    losses_s = []
    for run_id, points in printed.items():
        recorded = stored.figures(client.get_run(run_id)).get("carbon/training/energy_wh", 0.0) * 3600
        first_s, last_s = points[0][0], points[-1][0]
        lost_s = last_s - max((at for at, joules in points if joules <= recorded), default=first_s)
        # The child prints every 10 ms, so the longest pause shows how busy the machine is.
        pause_s = max(later - at for (at, _), (later, _) in itertools.pairwise(points))
        losses_s.append(max(0.0, lost_s - 3 * pause_s))
        # It may have used a little more between the last line and the kill.
        assert recorded <= points[-1][1] + 2 * WATTS * CHECKPOINT_S
    print(
        f"{kills} kills: lost {statistics.median(losses_s):.2f} s in the median, {max(losses_s):.2f} at most"
    )
    assert len(printed) == kills
    assert statistics.median(losses_s) <= CHECKPOINT_S
    assert max(losses_s) <= CHECKPOINT_S + 0.5


MODEL = """
import mlflow
class Model(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return [sum(i * i for i in range(2000)) for _ in model_input]
mlflow.models.set_model(Model())
"""


@brief_and_long("seconds", 6, 60)
def test_eight_replicas_of_one_model(seconds, launch, drawing, tmp_path, tracking_server):
    with tracking(tracking_server.url) as uri:
        (tmp_path / "model.py").write_text(MODEL)
        scores = mlflow.create_experiment("scores", artifact_location=tmp_path.as_uri())
        with mlflow.start_run(experiment_id=scores):
            model = mlflow.pyfunc.log_model(name="model", python_model=str(tmp_path / "model.py"))
        state = tmp_path / "state"
        arguments = (uri, str(drawing.root), str(state), model.model_uri)
        served = launch("replicas.py", *arguments, str(REPLICAS), str(seconds))
        answers = json.loads(served.finish(timeout=seconds + 240).splitlines()[-1])
        sync(uri, state)  # batches that a replica could not send before its end
        report = carbon_otel.report(model.model_id, tracking_uri=uri)
    joules = sum(part for part, _ in answers)
    assert len(answers) == REPLICAS
    assert report.by_stage["inference"][0] * 3600 == pytest.approx(joules, rel=1e-9)
    assert sum(e.units["inference/requests"] for e in report.entries) == sum(calls for _, calls in answers)
    print(f"{REPLICAS} replicas: {len(report.entries)} entries, {joules:.1f} J")
    assert len(report.entries) > REPLICAS  # each has successive windows of 2 s
    assert report.lower_bounds == ()

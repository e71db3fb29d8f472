"""A tracking server that dies: nothing is lost, whether it returns during the run or after the process."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
import time

import pytest

from carbon_otel.mlflow import compat
from carbon_otel.mlflow.delivery.spool import Batch
from carbon_otel.mlflow.delivery.worker import DeliveryWorker
from tests.integration import stored
from tests.integration.processes import wait_for
from tests.integration.servers import MlflowServer
from tests.integration.soak import brief_and_long

mlflow = pytest.importorskip("mlflow")

pytestmark = pytest.mark.chaos
CHECKPOINT_S = 0.5  # of the program


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory, empty_store):
    folder = tmp_path_factory.mktemp("server")
    made = MlflowServer(folder, empty_store.copy(folder))
    made.start()
    yield made
    made.kill()


@pytest.fixture
def program(launch, mlflow_server, drawing, tmp_path):
    return launch(
        "outage.py",
        mlflow_server.url,
        str(drawing.root),
        str(tmp_path / "state"),
        MLFLOW_HTTP_REQUEST_MAX_RETRIES="1",
        MLFLOW_HTTP_REQUEST_TIMEOUT="5",
    )


def history(server, run_id):
    client = mlflow.MlflowClient(server.url)
    return client.get_metric_history(run_id, "carbon/energy_wh")


@brief_and_long("outage_s", 5, 60)
def test_a_run_continues_without_the_server(outage_s, program, mlflow_server, drawing):
    run_id = program.line()
    wait_for(lambda: len(history(mlflow_server, run_id)) >= 2)
    mlflow_server.kill()
    down_s, down_j = time.time(), drawing.joules
    time.sleep(outage_s)
    during_j = drawing.joules - down_j
    program.say("how much?")
    assert float(program.line()) > during_j
    mlflow_server.start()
    up_s = time.time()
    wait_for(lambda: history(mlflow_server, run_id)[-1].timestamp / 1000 > up_s)
    program.say("end")
    joules = float(program.line())
    program.say("over")
    program.finish()
    run = mlflow.MlflowClient(mlflow_server.url).get_run(run_id)
    assert run.info.status == "FINISHED" and run.data.tags["carbon.status"] == "final"
    assert run.data.metrics["carbon/training/energy_wh"] * 3600 == pytest.approx(joules, rel=1e-12)
    assert run.data.metrics["carbon/accuracy_per_g"] == pytest.approx(
        0.75 / run.data.metrics["carbon/emissions_g"]
    )
    assert run.data.tags["mlflow.note.content"].startswith("**Energy and carbon**")
    points = history(mlflow_server, run_id)
    during = [p.timestamp / 1000 for p in points if down_s < p.timestamp / 1000 < up_s]
    gaps = [later - earlier for earlier, later in itertools.pairwise(during)]
    print(
        f"{len(during)} checkpoints in {up_s - down_s:.0f} s without a server, at most {max(gaps):.2f} s apart"
    )
    assert len(during) >= 3
    # The first point is the zero at the start of the run; later ones begin with the fourth checkpoint.
    assert (points[0].value, points[0].step) == (0.0, 0)
    for earlier, later in itertools.pairwise(points[1:]):
        # Every checkpoint has a point, until that is less than a hundredth of the run's age after the last one.
        age_s = (later.timestamp - points[0].timestamp) / 1000
        assert 1 <= later.step - earlier.step <= max(1, math.ceil(age_s / 100 / CHECKPOINT_S))
    assert "does not accept the figures of runs" in program.err


def test_killed_while_the_server_is_away_then_sent_by_the_command(program, mlflow_server, tmp_path):
    state = tmp_path / "state"

    def last_written():
        return max(file.stat().st_mtime_ns for file in state.rglob("*") if file.is_file())

    def next_write():
        before = last_written()
        wait_for(lambda: last_written() != before)

    run_id = program.line()
    wait_for(lambda: len(history(mlflow_server, run_id)) >= 2)
    mlflow_server.kill()
    program.say("how much?")
    at_least = float(program.line())
    # The first write may be of an earlier checkpoint.
    next_write()
    next_write()
    program.kill()
    sync = [sys.executable, "-m", "carbon_otel.cli", "mlflow", "sync", "--tracking-uri", mlflow_server.url]
    environment = {**os.environ, "CARBON_OTEL_STATE_DIR": str(state)}

    def synced():
        return subprocess.run(sync, env=environment, capture_output=True, text=True, timeout=120, check=False)

    away = synced()
    assert away.returncode == 1 and "Traceback" not in away.stderr, away.stderr
    mlflow_server.start()
    sent = synced()
    assert sent.returncode == 0 and "checkpoints sent to" in sent.stdout, sent.stderr
    points = history(mlflow_server, run_id)
    run = mlflow.MlflowClient(mlflow_server.url).get_run(run_id)
    assert stored.figures(run)["carbon/energy_wh"] * 3600 >= at_least
    assert synced().stdout.startswith("0 checkpoints sent")
    assert history(mlflow_server, run_id) == points


def test_values_that_the_server_refuses_cost_no_others(mlflow_server, tmp_path, caplog):
    client = mlflow.MlflowClient(mlflow_server.url)
    run_id = client.create_run("0").info.run_id
    worker = DeliveryWorker(tmp_path)
    values = {"carbon/energy_wh": 2.0, "carbon/../energy_wh": 1.0}
    values |= {f"carbon/m{n}/energy_wh": 1.0 for n in range(20)}
    tags = {"carbon.zone": "FR"}
    worker.put(Batch(run_id, 1, values, tags, 0, 1000, final=True), compat.store_of(client))
    assert worker.wait(60)
    worker.close(5)
    data = client.get_run(run_id).data
    assert data.metrics["carbon/energy_wh"] == 2.0 and data.metrics["carbon/m19/energy_wh"] == 1.0
    assert data.tags["carbon.zone"] == "FR" and "mlflow.note.content" in data.tags
    assert "'carbon/../energy_wh'" in caplog.text

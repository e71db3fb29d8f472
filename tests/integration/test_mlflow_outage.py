"""A tracking server that dies: nothing is lost, whether it comes back during the run or after the process."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time

import pytest

from carbon_otel.mlflow import compat
from carbon_otel.mlflow.delivery.spool import Batch
from carbon_otel.mlflow.delivery.worker import DeliveryWorker
from tests.integration.servers import MlflowServer

mlflow = pytest.importorskip("mlflow") if not os.environ.get("CI") else __import__("mlflow")

pytestmark = pytest.mark.chaos
OUTAGE_S = 60.0


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory):
    made = MlflowServer(tmp_path_factory.mktemp("server"))
    made.start()
    yield made
    made.kill()


@pytest.fixture
def program(launch, mlflow_server, drawing, tmp_path):
    return launch(
        "outage.py",
        mlflow_server.url,
        str(drawing),
        str(tmp_path / "state"),
        MLFLOW_HTTP_REQUEST_MAX_RETRIES="1",
        MLFLOW_HTTP_REQUEST_TIMEOUT="5",
    )


def say(program, line):
    program.process.stdin.write(line + "\n")
    program.process.stdin.flush()


def history(server, run_id):
    client = mlflow.MlflowClient(server.url)
    return client.get_metric_history(run_id, "carbon/energy_wh")


def wait_for(what, timeout_s=60.0):
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.2)


def test_a_minute_without_the_server_in_the_middle_of_a_run(program, mlflow_server):
    run_id = program.line()
    wait_for(lambda: len(history(mlflow_server, run_id)) >= 2)
    mlflow_server.kill()
    down_s = time.time()
    time.sleep(OUTAGE_S)
    say(program, "how much?")
    assert float(program.line()) > 0.5 * 20 * OUTAGE_S
    mlflow_server.start()
    up_s = time.time()
    wait_for(lambda: history(mlflow_server, run_id)[-1].timestamp / 1000 > up_s)
    say(program, "end")
    joules = float(program.line())
    say(program, "over")
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
        f"{len(during)} checkpoints of {up_s - down_s:.0f} s without a server, at most {max(gaps):.2f} s apart"
    )
    assert len(during) > 0.5 * (up_s - down_s) / 0.5
    assert [p.step for p in points] == list(range(points[0].step, points[0].step + len(points)))
    assert "does not take the energy of runs" in program.err


def test_killed_while_the_server_is_away_then_sent_by_the_command(program, mlflow_server, tmp_path):
    run_id = program.line()
    wait_for(lambda: len(history(mlflow_server, run_id)) >= 2)
    mlflow_server.kill()
    time.sleep(5)
    say(program, "how much?")
    at_least = float(program.line())
    time.sleep(1.5)
    os.kill(program.pid, signal.SIGKILL)
    program.process.communicate()
    sync = [sys.executable, "-m", "carbon_otel.cli", "mlflow", "sync", "--tracking-uri", mlflow_server.url]
    environment = {**os.environ, "CARBON_OTEL_STATE_DIR": str(tmp_path / "state")}

    def synced():
        return subprocess.run(sync, env=environment, capture_output=True, text=True, timeout=120, check=False)

    away = synced()
    assert away.returncode == 2 and "Traceback" not in away.stderr, away.stderr
    mlflow_server.start()
    sent = synced()
    assert sent.returncode == 0 and "checkpoints sent to" in sent.stdout, sent.stderr
    points = history(mlflow_server, run_id)
    assert points[-1].value * 3600 >= at_least
    assert synced().stdout.startswith("0 checkpoints sent")
    assert history(mlflow_server, run_id) == points


def test_values_that_the_server_refuses_cost_no_others(mlflow_server, tmp_path, caplog):
    client = mlflow.MlflowClient(mlflow_server.url)
    run_id = client.create_run("0").info.run_id
    worker = DeliveryWorker(tmp_path)
    values = {"carbon/energy_wh": 2.0, "carbon//refused": 1.0} | {f"carbon/m{n}": 1.0 for n in range(20)}
    tags = {"carbon.zone": "FR", "../refused": "x"}
    worker.put(Batch(run_id, 1, values, tags, 0, 1000, final=True), compat.store_of(client))
    assert worker.wait(60)
    worker.close(5)
    data = client.get_run(run_id).data
    assert data.metrics["carbon/energy_wh"] == 2.0 and data.metrics["carbon/m19"] == 1.0
    assert data.tags["carbon.zone"] == "FR" and "mlflow.note.content" in data.tags
    assert "'carbon//refused'" in caplog.text and "'../refused'" in caplog.text

"""Stores are independent: one that fails takes nothing from another, and the end of a run does not wait for it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import carbon_otel
from carbon_otel.mlflow import compat
from carbon_otel.mlflow.schema import names
from tests.integration.processes import wait_for
from tests.integration.unsteady import Unsteady

mlflow = pytest.importorskip("mlflow")

FAILURES = ("hang", "drop", 503, 500, 401)


@pytest.fixture
def patience(monkeypatch):
    """MLflow tries for minutes to reach a dead server."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")


@pytest.fixture
def broken(tracking_server, patience):
    """A server for each kind of failure; the requests of the program are answered, those with figures are not."""
    with contextlib.ExitStack() as stack:
        servers = {}
        for failure in FAILURES:
            servers[failure] = stack.enter_context(Unsteady(tracking_server.url).serving())
            servers[failure].failure = failure
        yield servers


@pytest.fixture
def instrumented(drawing, tmp_path):
    carbon_otel.instrument(
        zone="FR",
        powercap_root=drawing.root,
        interval_s=0.05,
        checkpoint_interval_s=0.2,
        state_dir=tmp_path / "state",
    )
    yield tmp_path / "state" / "mlflow"
    carbon_otel.uninstrument()


def experiment(client, folder):
    return client.create_experiment(f"apart {time.time_ns()}", artifact_location=folder.as_uri())


def run_in(client, experiment_id):
    """A run with a stage, by the client; returns its id and the seconds that its end took."""
    run_id = client.create_run(experiment_id).info.run_id
    mlflow_run = client.get_run(run_id)
    assert mlflow_run.info.status == "RUNNING"
    with carbon_otel.stage("training"):
        time.sleep(0.05)
    began = time.perf_counter()
    client.set_terminated(run_id)
    return run_id, time.perf_counter() - began


def totals(client, run_id):
    data = client.get_run(run_id).data
    return data.tags.get("carbon.status"), data.metrics.get("carbon/energy_wh", 0.0)


@pytest.mark.timeout(600)
def test_healthy_stores_have_their_figures_whatever_the_others_do(
    broken, instrumented, tmp_path, empty_store, tracking_server
):
    uris = {
        "sqlite": empty_store.copy(tmp_path),
        "file": f"file://{tmp_path}/mlruns",
        "server": tracking_server.url,
        **{failure: server.url for failure, server in broken.items()},
    }
    clients = {name: mlflow.MlflowClient(uri) for name, uri in uris.items()}
    experiments = {name: experiment(client, tmp_path) for name, client in clients.items()}
    runs = {}
    for turn in range(3):
        for name, client in clients.items():
            runs[name, turn], _ = run_in(client, experiments[name])
    for server in broken.values():
        wait_for(lambda server=server: server.failures)
    healthy = ("sqlite", "file", "server")
    wait_for(lambda: all(totals(clients[n], runs[n, t])[0] == "final" for n in healthy for t in range(3)))
    assert all(totals(clients[name], runs[name, turn])[1] > 0 for name in healthy for turn in range(3))
    assert not any(totals(clients[name], runs[name, turn])[0] for name in broken for turn in range(3))
    # They come back, and have lost nothing.
    for server in broken.values():
        server.failure = None
    wait_for(lambda: carbon_otel.flush(20))
    for name in broken:
        for turn in range(3):
            status, energy_wh = totals(clients[name], runs[name, turn])
            assert status == "final" and energy_wh > 0


def test_the_end_of_a_run_in_a_healthy_store_has_its_figures_while_another_store_is_dead(
    broken, instrumented, tmp_path, empty_store, monkeypatch
):
    monkeypatch.setattr("carbon_otel.mlflow.runs.run_stages._END_WAIT_S", 60)
    dead = mlflow.MlflowClient(broken["drop"].url)
    run_in(dead, experiment(dead, tmp_path))
    wait_for(lambda: broken["drop"].failures)
    client = mlflow.MlflowClient(empty_store.copy(tmp_path))
    run_id, _ = run_in(client, experiment(client, tmp_path))
    status, energy_wh = totals(client, run_id)
    assert status == "final" and energy_wh > 0


@pytest.mark.parametrize("failure", FAILURES)
def test_the_ends_of_five_runs_wait_once_at_most(failure, broken, instrumented, tmp_path, monkeypatch):
    monkeypatch.setattr("carbon_otel.mlflow.runs.run_stages._END_WAIT_S", 10)
    client = mlflow.MlflowClient(broken[failure].url)
    its_experiment = experiment(client, tmp_path)
    ends = sorted(run_in(client, its_experiment)[1] for _ in range(5))
    assert ends[-2] < 10


PROGRAM = """
import os, sys, threading, time, mlflow, carbon_otel
healthy, failing, end = sys.argv[1:]
carbon_otel.instrument(zone="FR", checkpoint_interval_s=0.2, interval_s=0.1)
clients = [mlflow.MlflowClient(uri) for uri in (failing, healthy)]
for client in clients:
    run = client.create_run("0")
    with carbon_otel.stage("training"):
        time.sleep(0.1)
    client.set_terminated(run.info.run_id)
    print(run.info.run_id, flush=True)
left_open = clients[1].create_run("0")
print(left_open.info.run_id, flush=True)
with carbon_otel.stage("training"):
    time.sleep(0.5)
print(time.time(), flush=True)
if end == "os._exit":
    os._exit(0)
if end == "sys.exit in a thread":
    threading.Thread(target=sys.exit).start()
if end == "sys.exit":
    sys.exit(3)
if end == "exception":
    raise LookupError
if end == "async":
    mlflow.set_tracking_uri(healthy)
    mlflow.config.enable_async_logging()
    with mlflow.start_run(run_id=left_open.info.run_id):
        for step in range(50):
            mlflow.log_metric("loss", 1.0, step)
"""


@pytest.mark.parametrize(
    ("failure", "end"),
    [
        *(("hang", end) for end in ("sys.exit", "sys.exit in a thread", "exception", "async", "os._exit")),
        ("drop", "normal"),
        (503, "normal"),
    ],
)
@pytest.mark.timeout(300)
def test_the_end_of_a_process_while_a_store_fails(failure, end, broken, tmp_path, empty_store):
    healthy = empty_store.copy(tmp_path)
    state = tmp_path / "state"
    variables = {"CARBON_OTEL_STATE_DIR": str(state), "PYTHONDEVMODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, healthy, broken[failure].url, end],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == {"sys.exit": 3, "exception": 1}.get(end, 0), done.stderr
    failed_run, ended_run, open_run, said_s = done.stdout.split()
    print(f"{end} beside {failure}: ended {time.time() - float(said_s):.1f} s after the last line")
    client = mlflow.MlflowClient(healthy)
    assert totals(client, ended_run)[0] == "final" and totals(client, ended_run)[1] > 0
    if end != "os._exit":
        assert totals(client, open_run)[0] == "final", done.stderr
    assert not totals(mlflow.MlflowClient(broken[failure].url), failed_run)[0]
    (left,) = (state / "mlflow").glob("*.spool")
    assert failed_run in left.read_text()
    for words in ("Traceback", "can't start new thread", "Fatal Python error"):
        assert words not in done.stderr or end == "exception", done.stderr


def test_runs_that_killed_processes_left_open_are_ended_in_the_store_of_the_first_run_there(
    drawing, tmp_path, empty_store, monkeypatch
):
    """Wherever MLflow's tracking URI leads meanwhile."""
    monkeypatch.setattr("carbon_otel.mlflow.runs.orphans.reconcile.__defaults__", (None, 0))
    clients = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        clients.append(mlflow.MlflowClient(empty_store.copy(folder)))
    killed = """
import os, sys, mlflow, carbon_otel
carbon_otel.instrument(zone="FR", checkpoint_interval_s=0.1, interval_s=0.05)
run = mlflow.MlflowClient(sys.argv[1]).create_run("0")
print(run.info.run_id)
carbon_otel.flush(60)
sys.stdout.flush()
os._exit(0)
"""
    variables = {**os.environ, "CARBON_OTEL_STATE_DIR": str(tmp_path / "state")}
    # In processes of their own: of two runs that clients create in one thread, none is known to be at work.
    orphans = [
        subprocess.run(
            [sys.executable, "-c", killed, client.tracking_uri],
            env=variables,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for client in clients
    ]
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/not-used.db")
    try:
        carbon_otel.instrument(zone="FR", powercap_root=drawing.root, state_dir=tmp_path / "other")
        for client, orphan in zip(clients, orphans, strict=True):
            client.create_run("0")
            wait_for(lambda client=client, orphan=orphan: client.get_run(orphan).info.status == "KILLED")
    finally:
        carbon_otel.uninstrument()
        mlflow.set_tracking_uri(None)
    assert not Path(tmp_path / "not-used.db").exists()


MODEL = """
import mlflow
class Model(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return [1 for _ in model_input]
mlflow.models.set_model(Model())
"""


@pytest.mark.timeout(300)
def test_a_model_whose_folder_has_lost_its_meta_yaml_keeps_no_energy_from_a_file_store(
    instrumented, tmp_path, patience
):
    (tmp_path / "model.py").write_text(MODEL)
    mlflow.set_tracking_uri(f"file://{tmp_path}/mlruns")
    try:
        client = mlflow.MlflowClient()
        scores = experiment(client, tmp_path / "artifacts")
        models = []
        for _ in range(2):
            with mlflow.start_run(experiment_id=scores):
                models.append(mlflow.pyfunc.log_model(name="model", python_model=str(tmp_path / "model.py")))
        loaded = [mlflow.pyfunc.load_model(model.model_uri) for model in models]
        for file in (tmp_path / "mlruns").rglob(f"models/{models[0].model_id}/meta.yaml"):
            file.unlink()
        for model in loaded:
            model.predict([1, 2])
        run_id, _ = run_in(client, scores)
        wait_for(lambda: carbon_otel.flush(20))
        assert totals(client, run_id)[1] > 0
        ledger = client.get_experiment_by_name("carbon-ledger")
        assert len(client.search_runs([ledger.experiment_id])) == 2
    finally:
        mlflow.set_tracking_uri(None)


def test_predictions_go_to_the_store_of_their_moment(drawing, tmp_path, empty_store):
    (tmp_path / "model.py").write_text(MODEL)
    uris = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        uris.append(empty_store.copy(folder))
        compat.store_at(uris[-1])  # load the store now, since that takes longer than the exit may
    mlflow.set_tracking_uri(uris[0])
    try:
        scores = experiment(mlflow.MlflowClient(), tmp_path / "artifacts")
        with mlflow.start_run(experiment_id=scores):
            made = mlflow.pyfunc.log_model(name="model", python_model=str(tmp_path / "model.py"))
        model = mlflow.pyfunc.load_model(made.model_uri)
        carbon_otel.instrument(zone="FR", powercap_root=drawing.root, state_dir=tmp_path / "state")
        for number in range(6):
            mlflow.set_tracking_uri(uris[number % 2])
            model.predict([1] * (1 + number % 2))
        mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/not-used.db")
        assert carbon_otel.flush(60)  # the exit does not wait as long for the first entries of two stores
        carbon_otel.uninstrument()
    finally:
        mlflow.set_tracking_uri(None)
    rows = []
    for client in map(mlflow.MlflowClient, uris):
        (entry,) = client.search_runs([client.get_experiment_by_name("carbon-ledger").experiment_id])
        rows.append(names.unpack(entry.data.metrics, entry.data.tags)[0]["carbon/units/inference/rows"])
    assert rows == [3, 6]
    assert not (tmp_path / "not-used.db").exists()

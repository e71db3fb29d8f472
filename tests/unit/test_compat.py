"""MLflow's private names, as far as they can be tested without a server."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from carbon_otel.mlflow import compat

mlflow = pytest.importorskip("mlflow")

CLOSED_PORT = 9


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    return compat.store_at(f"sqlite:///{folder}/mlflow.db")


def new_run(store):
    return store.create_run("0", "u", 1, [], "name").info.run_id


def test_a_separate_store_writes_to_the_same_database(store):
    own = compat.separate(store)
    assert own is not store and own.engine.pool is not store.engine.pool
    run_id = new_run(store)
    own.log_batch(run_id, [mlflow.entities.Metric("carbon/energy_wh", 2.0, 5, 3)], [], [])
    (point,) = compat.metric_points(store.get_run(run_id).data)
    assert point == ("carbon/energy_wh", 2.0, 5, 3)


class Shown(logging.Handler):
    """Keeps the lines that a program shows which has set up logging."""

    def __init__(self):
        super().__init__(logging.INFO)
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


@pytest.fixture
def shown():
    handler = Shown()
    loggers = [logging.getLogger(name) for name in ("mlflow", "urllib3", "carbon_otel")]
    for logger in loggers:
        logger.addHandler(handler)
    yield handler.lines
    for logger in loggers:
        logger.removeHandler(handler)


@pytest.fixture(params=["database", "server"])
def store_that_is_gone(request, tmp_path, monkeypatch):
    if request.param == "server":
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
        return compat.store_at(f"http://127.0.0.1:{CLOSED_PORT}")
    folder = tmp_path / "store"
    folder.mkdir()
    store = compat.store_at(f"sqlite:///{folder}/mlflow.db")
    store.engine.dispose()
    shutil.rmtree(folder)
    return store


def test_a_store_that_is_gone_adds_no_lines_of_other_libraries_to_the_program(store_that_is_gone, shown):
    with pytest.raises(mlflow.MlflowException):
        compat.separate(store_that_is_gone).get_run("r")
    assert not shown
    with pytest.raises(mlflow.MlflowException):
        store_that_is_gone.get_run("r")
    assert shown  # for the application, they log as they do without us


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_forked_while_our_thread_holds_its_pool_can_use_the_store(store):
    run_id = new_run(store)
    own = compat.separate(store)
    holding, forked = threading.Event(), threading.Event()

    def hold():
        with own.engine.pool._pool.mutex:
            holding.set()
            assert forked.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    assert holding.wait(20)
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        store.get_run(run_id)
        os._exit(0)
    forked.set()
    thread.join(20)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true"])
def test_a_database_in_memory_is_shared(uri):
    from sqlalchemy import create_engine

    store = SimpleNamespace(engine=create_engine(uri), ManagedSessionMaker=None)
    assert compat.separate(store).engine is store.engine


def test_a_store_without_a_pool_is_shared():
    store = SimpleNamespace(get_run=lambda run_id: f"run {run_id}")
    assert compat.separate(store).get_run("r") == "run r"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_waits_for_a_call_of_our_thread(store):
    """SQLite's own locks, in memory, cannot be renewed in the child."""
    calling, go, over = threading.Event(), threading.Event(), []

    def get_run(run_id):
        calling.set()
        assert go.wait(20)
        over.append(run_id)

    own = compat.separate(
        SimpleNamespace(get_run=get_run, engine=store.engine, ManagedSessionMaker=None, db_type="")
    )
    own._at_most_s = 60
    thread = threading.Thread(target=own.get_run, args=("r",))
    thread.start()
    assert calling.wait(20)
    threading.Timer(0.05, go.set).start()
    pid = os.fork()
    if pid == 0:
        os._exit(len(over))
    thread.join(20)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1


def test_a_client_of_a_store_needs_no_address(store):
    run_id = new_run(store)
    client = compat.client_of(compat.separate(store))
    assert client.get_run(run_id).info.run_id == run_id
    assert [each.experiment_id for each in client.search_experiments()] == ["0"]
    assert run_id in {run.info.run_id for run in client.search_runs(["0"])}
    client.set_tag(run_id, "a", "b")
    client.set_terminated(run_id, "KILLED", 5)
    run = store.get_run(run_id)
    assert run.data.tags["a"] == "b" and run.info.status == "KILLED" and run.info.end_time == 5


@pytest.mark.parametrize(
    ("store", "location"),
    [
        (SimpleNamespace(db_uri="postgresql://me:secret@db/mlflow"), "postgresql://me:secret@db/mlflow"),
        (SimpleNamespace(get_host_creds=lambda: SimpleNamespace(host="http://h:5000")), "http://h:5000"),
        (SimpleNamespace(root_directory="/data/mlruns"), "/data/mlruns"),
        (SimpleNamespace(), None),
    ],
)
def test_location_of_a_store(store, location):
    assert compat.location_of(store) == location


def test_the_store_of_the_fluent_api_and_of_a_client_is_the_one_at_the_uri(store, monkeypatch):
    monkeypatch.setattr("mlflow.tracking._tracking_service.utils._tracking_uri", store.db_uri)
    assert compat.current_store() is store
    assert compat.store_of(mlflow.MlflowClient()) is store


def test_a_scoring_server_is_recognised_by_its_environment():
    assert not compat.is_serving({})
    assert compat.is_serving({"_MLFLOW_IS_IN_SERVING_ENVIRONMENT": "true"})


SPANS = """
import mlflow
from carbon_otel.mlflow import compat
span = mlflow.start_span_no_context("s")
token = compat.attach_span(span)
assert mlflow.get_current_active_span().span_id == span.span_id
compat.detach_span(span, token)
assert mlflow.get_current_active_span() is None
"""


def test_spans_of_mlflow_are_attached_and_detached(tmp_path):
    # In a separate process, because MLflow exports the span from a thread, to the store of that moment.
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    subprocess.run([sys.executable, "-c", SPANS], env=environment, cwd=tmp_path, check=True)

"""Which run the work of a process belongs to, whatever opens and ends its runs, in real stores.

The package draws 50 W all the time. The sums of runs, compared with the energy of the process, show where it went.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import carbon_otel
from carbon_otel import runtime
from carbon_otel.stages.open_stage import current
from tests.fakes.drawing import Drawing
from tests.fakes.powercap import server
from tests.integration.processes import wait_for
from tests.integration.stores import tracking

mlflow = pytest.importorskip("mlflow")
handlers = pytest.importorskip("mlflow.server.handlers")

STORES = ["sqlite", "file"]


@pytest.fixture(scope="module", params=STORES)
def store(request, tmp_path_factory, empty_store):
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        address = empty_store.copy(folder) if request.param == "sqlite" else (folder / "mlruns").as_uri()
        with tracking(address) as uri:
            mlflow.create_experiment("places", artifact_location=folder.as_uri())
            mlflow.set_experiment("places")
            yield uri


@pytest.fixture
def measured(store, tmp_path):
    with Drawing(server(tmp_path / "sys"), zones=1, watts=50) as drawing:
        carbon_otel.instrument(
            zone="FR", powercap_root=drawing.root, interval_s=0.05, checkpoint_interval_s=0.2
        )
        yield drawing
        while mlflow.active_run():
            with contextlib.suppress(mlflow.exceptions.MlflowException):
                mlflow.end_run()
        # Threads that have ended leave runs on their stacks, and MLflow would add later traces to those.
        mlflow.tracking.fluent._active_run_stack.reset()
        carbon_otel.uninstrument()


@pytest.fixture
def client(measured):
    return mlflow.MlflowClient()


@pytest.fixture
def create(client):
    """Creates runs by a client; they end after the test."""
    experiment = mlflow.get_experiment_by_name("places").experiment_id
    runs = []

    def create(**tags) -> str:
        runs.append(client.create_run(experiment, tags=tags).info.run_id)
        return runs[-1]

    yield create
    for run_id in runs:
        if client.get_run(run_id).info.lifecycle_stage == "active":
            client.set_terminated(run_id)


def train(seconds=0.1):
    """The stage of some training."""
    with carbon_otel.stage("training") as stage:
        time.sleep(seconds)
    return stage


def trained(run_id) -> float:
    """Joules of training in the run; all of it, for the stages of these tests are never nested."""
    carbon_otel.flush(20)
    found = mlflow.MlflowClient().get_run(run_id).data.metrics
    return found.get("carbon/training/energy_wh", 0.0) * 3600


def total(run_id) -> float:
    carbon_otel.flush(20)
    return mlflow.MlflowClient().get_run(run_id).data.metrics.get("carbon/energy_wh", 0.0) * 3600


def run_here() -> str | None:
    """The run of a stage that would be opened here."""
    parent = runtime.active().engine.parent_of(current.get())
    return parent.info.run_id if parent is not None else None


def joules(*stages):
    return pytest.approx(sum(stage.footprint.energy_j for stage in stages), rel=1e-6)


def unattributed() -> float:
    return carbon_otel.footprint().exclusive_j


def test_runs_made_up_front_and_entered_one_after_the_other_have_their_own_training(create):
    runs = [create() for _ in range(3)]
    stages = []
    for run_id in runs:
        with mlflow.start_run(run_id=run_id):
            stages.append(train())
    assert [trained(run_id) for run_id in runs] == [joules(stage) for stage in stages]


def test_runs_made_up_front_and_entered_within_a_stage_have_all_of_their_training(create):
    runs = [create() for _ in range(2)]
    with carbon_otel.stage("evaluation") as search:
        stages = []
        for run_id in runs:
            with mlflow.start_run(run_id=run_id):
                stages.append(train())
    assert [trained(run_id) for run_id in runs] == [joules(stage) for stage in stages]
    # The stage around them contains them, so it does not pay beside them.
    within = search.footprint.energy_j - search.footprint.exclusive_j
    assert within >= sum(stage.footprint.energy_j for stage in stages)


def test_the_side_run_of_a_client_takes_nothing_from_the_active_run(create, client):
    with mlflow.start_run() as run:
        before = train()
        side = create()
        client.log_metric(side, "rows", 1)
        during = train()
        client.set_terminated(side)
        after = train()
    assert trained(run.info.run_id) == joules(before, during, after)
    assert total(side) == 0


def test_the_side_run_takes_nothing_from_helper_threads_either(create):
    with mlflow.start_run() as run, ThreadPoolExecutor(1) as pool:
        create()
        stage = pool.submit(train).result()
    assert trained(run.info.run_id) == joules(stage)


def test_a_client_run_that_is_the_only_one_keeps_its_energy(create, client):
    run_id = create()
    outside = unattributed()
    stage = train()
    time.sleep(0.1)
    carbon_otel.flush(20)
    assert unattributed() - outside < stage.footprint.energy_j / 2
    client.log_metric(run_id, "loss", 0.1)
    client.set_terminated(run_id)
    assert trained(run_id) == joules(stage)
    assert total(run_id) > stage.footprint.energy_j


def test_of_two_client_runs_neither_gets_the_energy_of_the_other(create, client, caplog):
    first, second = create(), create()
    alone = unattributed()
    stage = train()
    client.set_terminated(second)
    own = train()
    client.set_terminated(first)
    assert (trained(first), trained(second)) == (joules(own), 0)
    assert unattributed() > alone
    assert "start_run(run_id=...)" in caplog.text
    assert stage.footprint.energy_j > 0


def test_a_client_run_nested_in_the_active_run_is_the_innermost(create, client):
    with mlflow.start_run() as run:
        inner = create(**{"mlflow.parentRunId": run.info.run_id})
        stage = train()
        client.set_terminated(inner)
        later = train()
    assert trained(inner) == joules(stage)
    assert trained(run.info.run_id) == joules(stage, later)


def delete_by_client(client, run_id):
    client.delete_run(run_id)


def delete_by_fluent(client, run_id):
    mlflow.delete_run(run_id)


def kill_by_client(client, run_id):
    client.update_run(run_id, status="KILLED")


@pytest.mark.parametrize("delete", [delete_by_client, delete_by_fluent, kill_by_client])
@pytest.mark.parametrize("fluent", [True, False])
def test_a_run_that_is_deleted_takes_nothing_after_it(create, client, delete, fluent):
    run_id = mlflow.start_run().info.run_id if fluent else create()
    train()
    assert run_here() == run_id
    delete(client, run_id)
    assert run_here() is None
    other = create()
    own = train()
    client.set_terminated(other)
    assert trained(other) == joules(own)


def test_the_runs_of_a_deleted_experiment_end(client):
    doomed = client.create_experiment(f"doomed-{time.time_ns()}")
    mine = client.create_run(doomed).info.run_id
    with mlflow.start_run() as run:
        client.delete_experiment(doomed)
        assert run_here() == run.info.run_id
    assert client.get_run(mine).info.lifecycle_stage == "deleted"
    assert run_here() is None


def test_two_tasks_with_a_client_run_each(create, client):
    async def work(seconds):
        run_id = create()
        await asyncio.sleep(0.05)  # the other task has a run by then
        with carbon_otel.stage("training") as stage:
            await asyncio.sleep(seconds)
            handed = await asyncio.to_thread(train)
        await asyncio.sleep(seconds)
        client.set_terminated(run_id)
        return run_id, stage, handed

    async def main():
        return await asyncio.gather(work(0.1), work(0.2))

    for run_id, stage, _ in asyncio.run(main()):
        assert trained(run_id) == joules(stage)
        assert total(run_id) > stage.footprint.energy_j


def test_tasks_in_one_thread_follow_mlflow_s_active_run(client):
    """MLflow's stack is per thread: the run that was started last is active for all tasks of the thread."""
    started = {}

    async def work(name, seconds):
        run = mlflow.start_run(nested=bool(started))
        started[name] = run.info.run_id
        await asyncio.sleep(seconds)
        active = mlflow.active_run().info.run_id
        return active, train()

    async def main():
        return await asyncio.gather(work("a", 0.1), work("b", 0.2))

    (active, first), (also, second) = asyncio.run(main())
    assert active == also == started["b"]
    mlflow.end_run()
    mlflow.end_run()
    assert trained(started["b"]) == joules(first, second)


def test_runs_of_threads_are_their_own(client):
    ready = threading.Barrier(2)

    def work(_):
        with mlflow.start_run() as run:
            ready.wait(20)
            stage = train()
            ready.wait(20)
        return run.info.run_id, stage

    with ThreadPoolExecutor(2) as pool:
        for run_id, stage in pool.map(work, range(2)):
            assert trained(run_id) == joules(stage)


def test_a_thread_with_the_number_of_an_ended_one_inherits_no_run(client):
    def leave_open():
        return mlflow.start_run().info.run_id, threading.get_ident()

    def look():
        return run_here(), threading.get_ident()

    reused = False
    with mlflow.start_run() as run:
        for _ in range(20):
            with ThreadPoolExecutor(1) as pool:
                abandoned, number = pool.submit(leave_open).result()
            with ThreadPoolExecutor(1) as pool:
                found, again = pool.submit(look).result()
            client.set_terminated(abandoned)
            assert found == run.info.run_id
            reused |= number == again
            if reused:
                break
    if not reused:
        pytest.skip("the system gave no number of a thread again")


def test_a_run_started_in_a_thread_and_ended_in_another(client):
    with ThreadPoolExecutor(1) as pool:
        run_id = pool.submit(lambda: mlflow.start_run().info.run_id).result()
    stage = train()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(client.set_terminated, run_id).result()
    train()
    assert trained(run_id) == joules(stage)


class Refusing:
    """A store that refuses, `times` times, to mark a run as ended or deleted."""

    def __init__(self, monkeypatch, method):
        self.times = 0
        self.client = mlflow.MlflowClient()
        owner = next(c for c in type(self.client._tracking_client.store).__mro__ if method in vars(c))
        original = vars(owner)[method]

        def refusing(store, *args, **kwargs):
            if self.times:
                self.times -= 1
                raise mlflow.exceptions.MlflowException("the server is down")
            return original(store, *args, **kwargs)

        monkeypatch.setattr(owner, method, refusing)


def test_a_run_whose_end_the_store_refuses_is_still_open(store, monkeypatch, request):
    refusing = Refusing(monkeypatch, "update_run_info")
    request.getfixturevalue("measured")
    run_id = mlflow.start_run().info.run_id
    first = train()
    refusing.times = 1
    with pytest.raises(mlflow.exceptions.MlflowException):
        mlflow.end_run()
    assert mlflow.active_run() is None
    second = train()  # the run is RUNNING, and the only one
    refusing.client.set_terminated(run_id)
    train()
    assert trained(run_id) == joules(first, second)
    assert refusing.client.get_run(run_id).data.tags["carbon.status"] == "final"


@pytest.mark.parametrize("method", ["delete_run", "delete_experiment"])
def test_a_run_whose_deletion_the_store_refuses_is_still_active(store, monkeypatch, request, method):
    refusing = Refusing(monkeypatch, method)
    request.getfixturevalue("measured")
    with mlflow.start_run() as run:
        first = train()
        refusing.times = 1
        subject = run.info.run_id if method == "delete_run" else run.info.experiment_id
        with pytest.raises(mlflow.exceptions.MlflowException):
            getattr(refusing.client, method)(subject)
        other = refusing.client.create_run(run.info.experiment_id)  # a side run
        second = train()
        refusing.client.set_terminated(other.info.run_id)
    assert trained(run.info.run_id) == joules(first, second)


def test_a_run_that_a_store_deletes_for_good_has_ended(client):
    store = client._tracking_client.store
    run_id = mlflow.start_run().info.run_id
    train()
    store._hard_delete_run(run_id)
    assert run_here() is None


def test_the_next_measurement_continues_a_run_of_a_client(create, client, measured):
    run_id = create()
    first = train()
    carbon_otel.uninstrument()
    carbon_otel.instrument(zone="DE", powercap_root=measured.root, interval_s=0.05)
    wait_for(lambda: carbon_otel.footprint().stages.get("run"))
    second = train()
    client.set_terminated(run_id)
    assert trained(run_id) == joules(first, second)


def test_the_next_measurement_does_not_continue_a_run_that_has_ended_since(create, client, measured):
    run_id = create()
    carbon_otel.uninstrument()
    client.set_terminated(run_id)
    carbon_otel.instrument(zone="DE", powercap_root=measured.root, interval_s=0.05)
    run = mlflow.start_run()
    mlflow.end_run()
    train()
    assert trained(run_id) == trained(run.info.run_id) == 0


def test_a_measurement_that_begins_late_knows_the_active_runs_of_all_threads(store, tmp_path):
    go = threading.Event()

    def work():
        with mlflow.start_run() as run:
            assert go.wait(20)
            # The store is asked for the run, in the background.
            wait_for(lambda: runtime.active().engine.parent_of(None).info.run_id == run.info.run_id)
            return run.info.run_id, train()

    with Drawing(server(tmp_path / "sys"), zones=1, watts=50) as drawing, ThreadPoolExecutor(1) as pool:
        theirs = pool.submit(work)
        with mlflow.start_run() as outer, mlflow.start_run(nested=True) as inner:
            carbon_otel.instrument(zone="FR", powercap_root=drawing.root)
            mine = train()
            go.set()
            run_id, stage = theirs.result()
        assert trained(inner.info.run_id) == trained(outer.info.run_id) == joules(mine)
        assert trained(run_id) == joules(stage)
        carbon_otel.uninstrument()


def test_the_runs_that_a_server_in_this_process_keeps_for_others_are_not_its_own(client, create, monkeypatch):
    monkeypatch.setattr(handlers, "_tracking_store", client._tracking_client.store)
    create()
    assert run_here() is None


def test_many_runs_of_a_client_cost_a_run_nothing(create):
    """Runs that are created and never ended have no stage, and are in no checkpoint."""
    with mlflow.start_run() as run:
        for _ in range(30):
            create()
        stage = train()
        engine = runtime.active().engine
        assert len(engine.runs) == 1
    assert trained(run.info.run_id) == joules(stage)


def test_a_run_is_entered_again_by_with(client):
    run = mlflow.start_run()
    with run:
        first = train()
    with run:  # MLflow does not resume it
        train()
    with mlflow.start_run(run_id=run.info.run_id):
        second = train()
    assert trained(run.info.run_id) == joules(first, second)


def end_in_another_process(run_id):
    code = "import sys, mlflow; mlflow.MlflowClient().set_terminated(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, run_id], check=True)


def test_a_client_run_that_another_process_ended_takes_nothing_after_the_program_reads_that(create, client):
    run_id = create()
    before = train()
    end_in_another_process(run_id)
    assert client.get_run(run_id).info.status == "FINISHED"
    assert run_here() is None
    ended = total(run_id)
    train()
    assert trained(run_id) == joules(before)
    assert total(run_id) == ended


def test_a_run_that_another_process_ended_stays_active_where_mlflow_says_so(measured, client):
    with mlflow.start_run() as run:
        end_in_another_process(run.info.run_id)
        assert client.get_run(run.info.run_id).info.status == "FINISHED"
        assert run_here() == run.info.run_id
        stage = train()
    assert trained(run.info.run_id) == joules(stage)

"""Real runs in a real store: each has its figures once, however it starts and ends."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

import carbon_otel
from carbon_otel import runtime
from carbon_otel.carbon.grid import intensity
from carbon_otel.mlflow.runs import ends_elsewhere
from carbon_otel.mlflow.runs.orphans import reconcile
from carbon_otel.mlflow.schema import contributions, pages
from carbon_otel.records import RUN
from tests.fakes.drawing import trickle
from tests.integration import stored
from tests.integration.processes import wait_for
from tests.integration.stores import tracking

mlflow = pytest.importorskip("mlflow")


def about(joules):
    """Tolerance: energy has steps of a joule, and is extrapolated for up to 5 ms at an edge.

    That is 200 W on a quiet machine, and twice as much if several steps come at once.
    """
    return pytest.approx(joules, abs=2.5, rel=0.03)


PARTS = re.compile(r"carbon/[^/]+/energy_wh")


@pytest.fixture(scope="module")
def store(tmp_path_factory, empty_store):
    folder = tmp_path_factory.mktemp("store")
    with tracking(empty_store.copy(folder)) as uri:
        mlflow.create_experiment("tests", artifact_location=folder.as_uri())
        mlflow.set_experiment("tests")
        yield uri


@pytest.fixture
def measured(store, tree):
    carbon_otel.instrument(zone="FR", powercap_root=tree.root, interval_s=0.05, checkpoint_interval_s=0.2)

    def draw(joules: int) -> None:
        """Spend some energy at 200 W."""
        for _ in range(joules):
            time.sleep(0.005)
            tree.package[0].add(1)
        time.sleep(0.003)

    with trickle(tree.package[0]):
        yield draw
        carbon_otel.uninstrument()


def metrics(run_id):
    carbon_otel.flush(20)  # the end of a run waits only briefly for its last write
    return stored.figures(mlflow.MlflowClient().get_run(run_id))


def tags(run_id):
    return stored.tags(mlflow.MlflowClient().get_run(run_id))


def written(run_id):
    """The contributions of the processes of a run."""
    return contributions.read(mlflow.MlflowClient().get_run(run_id).data.tags)


def wh(run_id, part="energy_wh"):
    """Joules of the run, or of one of its stages."""
    return metrics(run_id)[f"carbon/{part}"] * 3600


def assert_adds_up(run_id):
    found = metrics(run_id)
    parts = [value for name, value in found.items() if PARTS.fullmatch(name)]
    assert sum(parts) == pytest.approx(found["carbon/energy_wh"], rel=1e-9)


def test_a_run_has_its_total_its_stages_and_its_provenance(measured):
    with mlflow.start_run() as run:
        with carbon_otel.stage("data_processing"):
            measured(6)
        measured(1)
        with carbon_otel.stage("training"):
            measured(18)
    run_id = run.info.run_id
    assert wh(run_id) == about(25)
    assert wh(run_id, "training/energy_wh") == about(18)
    assert wh(run_id, "run/energy_wh") == about(1)
    assert_adds_up(run_id)
    found = metrics(run_id)
    assert found["carbon/energy_kwh"] == pytest.approx(found["carbon/energy_wh"] / 1000)
    assert found["carbon/emissions_kg"] * 1000 == pytest.approx(found["carbon/emissions_g"])
    assert found["carbon/energy_low_wh"] <= found["carbon/energy_wh"] <= found["carbon/energy_high_wh"]
    expected = {
        "carbon.status": "final",
        "carbon.method": "measured.counter",
        "carbon.measured_fraction": "1.0000",
        "carbon.zone": "FR",
        "carbon.pue": "1",
        "carbon.attribution": "reserved",
        "carbon.version": carbon_otel.__version__,
        "carbon.segments": "1",
    }
    assert {name: tags(run_id).get(name) for name in expected} == expected
    assert float(tags(run_id)["carbon.intensity_g_per_kwh"]) > 0
    assert tags(run_id)["carbon.intensity_year"].isdigit() and tags(run_id)["carbon.intensity_source"]


def test_a_run_shows_few_metrics_and_tags(measured):
    """Beside the metric of the user, which comes first; all else is in one hidden tag of a constant name."""
    with mlflow.start_run() as run:
        for kind in ("data_processing", "training", "inference"):
            with carbon_otel.stage(kind) as stage:
                measured(3)
                stage.units(samples=1000)
        mlflow.log_metric("accuracy", 0.9)
    carbon_otel.flush(20)
    data = mlflow.MlflowClient().get_run(run.info.run_id).data
    model = [name for name in data.metrics if not name.startswith("system/")]
    assert (
        model[:6]
        == [
            "accuracy",
            "carbon/energy_kwh",
            "carbon/emissions_kg",
            "carbon/energy_wh",
            "carbon/emissions_g",
            "carbon/embodied_g",
        ]
        and len(model) <= 16
    ), model
    groups = {name.rpartition("/")[0] for name in data.metrics.keys() - model}
    assert groups == {"system/carbon/power", "system/carbon/components"}
    ours = {name for name in data.tags if "carbon" in name}
    assert ours == {
        "carbon.status",
        "carbon.energy_kwh",
        "carbon.emissions_kg",
        "carbon.measured_fraction",
        "carbon.method",
        "carbon.zone",
        "carbon.intensity_g_per_kwh",
        "carbon.hardware",
        "mlflow.carbon_otel.run",
    }
    assert float(data.tags["carbon.energy_kwh"]) == pytest.approx(data.metrics["carbon/energy_kwh"], rel=1e-5)
    assert float(data.tags["carbon.emissions_kg"]) == pytest.approx(
        data.metrics["carbon/emissions_kg"], rel=1e-5
    )


def test_sums_begin_at_zero_so_that_they_are_drawn_as_lines(measured):
    with mlflow.start_run() as run, carbon_otel.stage("training"):
        measured(100)
    assert carbon_otel.flush(60)
    client = mlflow.MlflowClient()
    for name in ("carbon/energy_kwh", "carbon/training/emissions_g", "system/carbon/components/cpu_wh"):
        points = client.get_metric_history(run.info.run_id, name)  # in no order that MLflow states
        zero, *_, last = sorted(points, key=lambda point: point.step)
        assert (zero.value, zero.step) == (0.0, 0) and last.value > 0 and last.step > 0
        assert zero.timestamp <= last.timestamp


def test_a_run_that_moves_says_so_and_is_priced_at_both_places(measured, tree):
    settings = {"powercap_root": tree.root, "interval_s": 0.05}
    carbon_otel.instrument(zone="FR", pue=1.0, **settings)
    with mlflow.start_run() as run, carbon_otel.stage("training"):
        measured(6)
    carbon_otel.instrument(zone="PL", pue=1.5, **settings)
    with mlflow.start_run(run_id=run.info.run_id), carbon_otel.stage("training"):
        measured(3)
    carbon_otel.flush(20)
    found = stored.tags(mlflow.MlflowClient().get_run(run.info.run_id))
    assert found["carbon.zone"] == "FR, PL" and 1.0 < float(found["carbon.pue"]) < 1.5
    report = carbon_otel.report(run.info.run_id)
    (entry,) = report.entries
    french, polish = entry.places
    assert french.energy_wh + polish.energy_wh == pytest.approx(entry.energy_wh)
    assert french.emissions_g + polish.emissions_g == pytest.approx(entry.emissions_g)
    assert {grid[:2] for grid in report.grids} == {"FR", "PL"}
    moved = carbon_otel.report(run.info.run_id, zone="SE")
    at_g = carbon_otel.report(run.info.run_id, zone="SE").total.emissions_g
    sweden = intensity("SE").g_per_kwh / 1000
    assert at_g == pytest.approx((french.energy_wh + 1.5 * polish.energy_wh) * sweden, rel=1e-6)
    assert moved.total.energy_wh == pytest.approx(entry.energy_wh)
    with pytest.raises(ValueError, match="FR, PL"):
        carbon_otel.report(run.info.run_id, year=2022)
    there = carbon_otel.where(run.info.run_id, clouds=["gcp"])
    assert there.here is not None and there.here.name == "FR, PL"


def test_a_run_has_the_place_that_was_given_and_what_its_intensity_counts(measured, tree):
    carbon_otel.instrument(region="aws:us-east-1", powercap_root=tree.root, interval_s=0.05)
    with mlflow.start_run() as run, carbon_otel.stage("training") as stage:
        measured(5)
    found, f = tags(run.info.run_id), stage.footprint
    expected = {
        "carbon.region": "aws:us-east-1",
        "carbon.zone": "US-SRVC",
        "carbon.intensity_signal": "average, location-based, direct, production",
        "carbon.intensity_year": "2023",
        "carbon.pue": f"{f.pue:g}",
        "carbon.pue_source": f.pue_source,
    }
    assert {name: found.get(name) for name in expected} == expected
    assert f.region == "aws:us-east-1" and f.pue > 1 and "AWS" in f.pue_source
    assert f.emissions_g == pytest.approx(f.energy_kwh * f.pue * 270.5)
    found = carbon_otel.where(run.info.run_id, clouds=["aws"])
    assert found.here is not None and found.here.pue > 1 and len(found.regions) == 39


def test_the_totals_are_of_the_time_before_the_end(measured):
    with mlflow.start_run() as run, carbon_otel.stage("training"):
        measured(5)
    carbon_otel.flush(60)
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "carbon/energy_wh")
    ended = mlflow.MlflowClient().get_run(run.info.run_id).info
    assert ended.status == "FINISHED"
    assert history[-1].timestamp <= ended.end_time + 5


def test_checkpoints_rise(measured):
    drawn = 0

    def history():
        return mlflow.MlflowClient().get_metric_history(run.info.run_id, "carbon/energy_wh")

    def rises():
        nonlocal drawn
        measured(2)
        drawn += 2
        return len(history()) > 2

    with mlflow.start_run() as run:
        wait_for(rises)
        assert tags(run.info.run_id)["carbon.status"] == "running"
        assert wh(run.info.run_id) > 0
    carbon_otel.flush(20)
    points = history()
    # A slow store may skip a checkpoint; the next one includes its figures.
    assert [point.step for point in points] == sorted({point.step for point in points})
    assert [point.value for point in points] == sorted(point.value for point in points)
    assert points[-1].value * 3600 == about(drawn)


def test_a_run_of_the_client(measured):
    client = mlflow.MlflowClient()
    experiment = mlflow.get_experiment_by_name("tests").experiment_id
    run_id = client.create_run(experiment).info.run_id
    measured(4)
    client.set_terminated(run_id)
    assert wh(run_id) == about(4)


def test_a_run_ended_by_update_run(measured):
    client = mlflow.MlflowClient()
    run_id = client.create_run(mlflow.get_experiment_by_name("tests").experiment_id).info.run_id
    measured(4)
    client.update_run(run_id, status="KILLED")
    assert wh(run_id) == about(4)
    assert tags(run_id)["carbon.status"] == "final"


@pytest.mark.parametrize(
    "change",
    ["status = 'FINISHED'", "status = 'KILLED'", "lifecycle_stage = 'deleted'"],
    ids=lambda c: c[-9:-1],
)
def test_a_run_of_the_client_that_another_process_ends_is_charged_no_longer(
    store, measured, monkeypatch, change
):
    monkeypatch.setattr(ends_elsewhere, "_EVERY_S", 0.1)
    carbon_otel.uninstrument()
    carbon_otel.instrument(zone="FR", interval_s=0.05)
    experiment = mlflow.get_experiment_by_name("tests").experiment_id
    run_id = mlflow.MlflowClient().create_run(experiment).info.run_id
    engine = runtime.active().engine
    assert run_id in run_ids(engine)
    time.sleep(0.5)  # the store is asked, and says that it is running
    assert run_id in run_ids(engine)
    with sqlite3.connect(store.removeprefix("sqlite:///"), timeout=60) as database:
        database.execute(f"UPDATE runs SET {change} WHERE run_uuid = ?", (run_id,))
    database.close()
    wait_for(lambda: run_id not in run_ids(engine))


def test_a_run_that_is_active_here_is_charged_whatever_another_process_says(store, measured, monkeypatch):
    monkeypatch.setattr(ends_elsewhere, "_EVERY_S", 0.1)
    carbon_otel.uninstrument()
    carbon_otel.instrument(zone="FR", interval_s=0.05)
    engine = runtime.active().engine
    with mlflow.start_run() as run:
        with sqlite3.connect(store.removeprefix("sqlite:///"), timeout=60) as database:
            database.execute("UPDATE runs SET status = 'FINISHED' WHERE run_uuid = ?", (run.info.run_id,))
        database.close()
        time.sleep(0.5)
        assert run.info.run_id in run_ids(engine)


def run_ids(engine):
    return {stage.info.run_id for stage in list(engine._open.values()) if stage.info.kind == RUN}


def test_renaming_a_run_that_is_not_measured_starts_no_measurement(measured):
    carbon_otel.uninstrument()
    client = mlflow.MlflowClient()
    run_id = client.create_run(mlflow.get_experiment_by_name("tests").experiment_id).info.run_id
    carbon_otel.instrument(zone="FR", interval_s=0.05)
    client.update_run(run_id, name="renamed")
    client.set_terminated(run_id)
    assert metrics(run_id) == {}


def test_a_resumed_run_continues(measured):
    with mlflow.start_run() as run, carbon_otel.stage("training") as first:
        measured(6)
    run_id = run.info.run_id
    steps = mlflow.MlflowClient().get_metric_history(run_id, "carbon/energy_wh")[-1].step
    measured(30)
    with mlflow.start_run(run_id=run_id), carbon_otel.stage("training") as second:
        measured(3)
    # Not the joules drawn: on a busy machine the time between may have been charged for some of them in advance.
    trained = first.footprint.energy_j + second.footprint.energy_j
    assert wh(run_id, "training/energy_wh") == pytest.approx(trained, rel=1e-9)
    assert trained <= wh(run_id) * (1 + 1e-9) < trained + 25  # without the 30 J between
    assert mlflow.MlflowClient().get_metric_history(run_id, "carbon/energy_wh")[-1].step > steps
    # The process goes on in its own contribution, so the run has one hidden tag.
    assert list(written(run_id)) == [contributions.CREATOR]
    assert_adds_up(run_id)


@pytest.mark.parametrize("age_s", [0, 30 * 86400])
def test_the_points_of_a_resumed_run_are_as_far_apart_as_its_age_says(measured, age_s):
    client = mlflow.MlflowClient()
    began_ms = int((time.time() - age_s) * 1000)
    run_id = client.create_run(mlflow.get_experiment_by_name("tests").experiment_id, began_ms).info.run_id
    client.set_terminated(run_id)
    before = len(client.get_metric_history(run_id, "carbon/energy_wh"))
    with mlflow.start_run(run_id=run_id):
        for _ in range(4):
            measured(1)
            assert carbon_otel.flush(20)  # a checkpoint
    carbon_otel.flush(20)
    points = len(client.get_metric_history(run_id, "carbon/energy_wh")) - before
    assert points == 2 if age_s else points > 3, "of an old run, only its zero and the end"


def test_a_nested_run_is_in_its_parent(measured):
    with mlflow.start_run() as outer:
        measured(2)
        with mlflow.start_run(nested=True) as inner, carbon_otel.stage("training"):
            measured(7)
        measured(1)
    assert wh(inner.info.run_id) == about(7)
    assert wh(outer.info.run_id) == about(10)
    assert wh(outer.info.run_id, "training/energy_wh") == about(7)
    assert_adds_up(outer.info.run_id)


def test_runs_of_two_threads_share(measured):
    ready, done = threading.Barrier(3), threading.Barrier(3)
    ids = {}

    def work(name):
        with mlflow.start_run(run_name=name) as run, carbon_otel.stage("training"):
            ids[name] = run.info.run_id
            ready.wait()
            done.wait()

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    ready.wait()
    measured(10)
    carbon_otel.footprint()
    done.wait()
    for thread in threads:
        thread.join()
    assert sum(wh(run_id) for run_id in ids.values()) == about(10)
    assert wh(ids["a"]) > 0 and wh(ids["b"]) > 0


def test_a_stage_in_another_thread_belongs_to_the_only_run(measured):
    def work():
        with carbon_otel.stage("inference"):
            measured(5)

    with mlflow.start_run() as run:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert wh(run.info.run_id, "inference/energy_wh") == about(5)


def test_a_failed_run(measured):
    run = mlflow.start_run()

    def diverge():
        with run, carbon_otel.stage("training"):
            measured(5)
            raise RuntimeError("diverged")

    with pytest.raises(RuntimeError):
        diverge()
    assert mlflow.get_run(run.info.run_id).info.status == "FAILED"
    assert wh(run.info.run_id) == about(5)


def test_a_run_that_is_active_at_instrument_is_measured_from_then_on(store, tree):
    with mlflow.start_run() as run:
        tree.package[0].add(100)
        carbon_otel.instrument(zone="FR", powercap_root=tree.root, interval_s=0.05)
        # Joule by joule: all at once may be more than a processor can draw between two readings.
        for _ in range(5):
            time.sleep(0.01)
            tree.package[0].add(1)
        time.sleep(0.003)
    carbon_otel.uninstrument()
    assert wh(run.info.run_id) == about(5)


def test_uninstrument_in_mid_run_writes_the_totals(measured):
    with mlflow.start_run() as run:
        measured(5)
        carbon_otel.uninstrument()
        assert wh(run.info.run_id) == about(5)
        assert tags(run.info.run_id)["carbon.status"] == "final"


def test_uninstrument_leaves_mlflow_as_it_was(store, tree):
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Store
    from mlflow.tracking._tracking_service.client import TrackingServiceClient as Client

    def methods():
        names = [
            (Store, "create_run"),
            (Store, "update_run_info"),
            (Client, "__init__"),
            (Client, "update_run"),
        ]
        return [vars(owner)[name] for owner, name in names]

    before = methods()
    carbon_otel.instrument(zone="FR", powercap_root=tree.root)
    assert all(patched is not original for patched, original in zip(methods(), before, strict=True))
    carbon_otel.uninstrument()
    assert methods() == before


RANK = """
import sys, mlflow, carbon_otel
uri, root, state = sys.argv[1:]
mlflow.set_tracking_uri(uri)
carbon_otel.instrument(zone="FR", powercap_root=root, interval_s=0.05, checkpoint_interval_s=0.2)
run = mlflow.start_run()
with carbon_otel.stage("training") as training:
    print(run.info.run_id, flush=True)
    sys.stdin.readline()
mlflow.end_run()
own = carbon_otel.footprint()
print(own.energy_j - own.exclusive_j, training.footprint.energy_j, flush=True)
"""


def energies(run_id):
    """What each process has written to the run, in watt-hours."""
    parts = written(run_id).values()
    return [part.values["carbon/energy_wh"] for part in parts if "carbon/energy_wh" in part.values]


@pytest.mark.chaos
def test_ranks_that_share_a_run_by_its_id(store, measured, tree, tmp_path):
    """Each rank writes its contribution, a killed rank up to its last checkpoint; the run has the sum."""
    with mlflow.start_run() as run:
        run_id = run.info.run_id
        ranks = [
            subprocess.Popen(
                [sys.executable, "-c", RANK, store, str(tree.root), str(tmp_path)],
                env={**os.environ, "MLFLOW_RUN_ID": run_id},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(3)
        ]
        for rank in ranks:
            assert rank.stdout.readline().strip() == run_id
        with carbon_otel.stage("training") as own:
            measured(20)
        # A kill leaves what the store has.
        wait_for(lambda: len(energies(run_id)) == 4 and sum(energies(run_id)) * 3600 > 15)
        ranks[0].communicate("go\n")
        printed = ranks[1].communicate("go\n")[0].split()
        measured(5)
        os.kill(ranks[2].pid, signal.SIGKILL)
        ranks[2].communicate()
    carbon_otel.flush(20)
    parts = written(run_id)
    assert len(parts) == 4 and sorted(part.final for part in parts.values()) == [False, True, True, True]
    total = sum(energies(run_id))
    assert metrics(run_id)["carbon/energy_wh"] == pytest.approx(total, rel=1e-9)
    assert tags(run_id)["carbon.segments"] == "4"
    by_rank = [watt_hours * 3600 for watt_hours in energies(run_id)]
    assert any(joules == pytest.approx(float(printed[0]), rel=1e-9) for joules in by_rank)
    assert wh(run_id, "training/energy_wh") > own.footprint.energy_j
    # The four processes share one package, so their sum is at most its energy.
    assert 15 < total * 3600 < 40
    (entry,) = [e for e in carbon_otel.report("tests").entries if e.run_id == run_id]
    assert entry.energy_wh == pytest.approx(total, rel=1e-9)
    assert entry.lower_bound == "has not ended in order"


def test_autologged_searches(measured):
    from sklearn.datasets import make_classification
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    X, y = make_classification(200, 10, random_state=0)  # noqa: N806 - scikit-learn's name
    mlflow.sklearn.autolog(log_models=False, silent=True)
    try:
        GridSearchCV(LogisticRegression(), {"C": [0.1, 1]}, cv=2).fit(X, y)
    finally:
        mlflow.sklearn.autolog(disable=True)
    carbon_otel.flush(20)
    runs = mlflow.search_runs(experiment_names=["tests"], output_format="list")
    parent = next(
        run for run in runs if "carbon.status" in run.data.tags and "GridSearchCV" in str(run.data.tags)
    )
    searched = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(searched) == 2
    assert all(metrics(run.info.run_id) == {} for run in searched)
    assert "carbon/training/energy_wh" in metrics(parent.info.run_id)
    assert_adds_up(parent.info.run_id)


PROGRAM = """
import sys, time, threading
import carbon_otel
carbon_otel.instrument(zone="FR", interval_s=0.05, checkpoint_interval_s=0.2)
assert "mlflow" not in sys.modules
with carbon_otel.stage("training"):
    pass
assert "mlflow" not in sys.modules
import mlflow
mlflow.set_tracking_uri(sys.argv[1])
run = mlflow.start_run()
print(run.info.run_id, flush=True)
"""


def launch(store, text):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM + text, store],
        env={**os.environ, "MLFLOW_EXPERIMENT_NAME": "tests"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return process, process.stdout.readline().strip()


@pytest.mark.chaos
def test_a_killed_run_keeps_its_last_checkpoint(store):
    process, run_id = launch(store, "with carbon_otel.stage('training'):\n    while True: sum(range(1000))")
    wait_for(lambda: "carbon/training/energy_wh" in metrics(run_id) and "carbon.status" in tags(run_id))
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    sums = metrics(run_id)
    assert sums["carbon/energy_wh"] > 0 and sums["carbon/training/energy_wh"] > 0
    assert tags(run_id)["carbon.status"] == "running"
    assert mlflow.get_run(run_id).info.status == "RUNNING"
    with mlflow.start_run() as alive:
        assert reconcile(mlflow.MlflowClient()) == []  # written a moment ago
        assert reconcile(mlflow.MlflowClient(), silent_s=0) == [run_id]
        assert mlflow.get_run(alive.info.run_id).info.status == "RUNNING"
    assert mlflow.get_run(run_id).info.status == "KILLED"
    assert tags(run_id)["carbon.status"] == "killed"
    # It was killed before most of its metrics had a point.
    shown = mlflow.get_run(run_id).data.metrics
    for name in filter(pages.metric, sums):
        assert shown[pages.metric(name)] == sums[name]
    (entry,) = [e for e in carbon_otel.report("tests").entries if e.run_id == run_id]
    assert entry.lower_bound == "has not ended in order"
    assert reconcile(mlflow.MlflowClient(), silent_s=0) == []


def test_the_next_start_on_the_host_reconciles(store, monkeypatch):
    monkeypatch.setattr("carbon_otel.mlflow.runs.orphans.reconcile.__defaults__", (None, 0))
    process, run_id = launch(store, "time.sleep(600)")
    wait_for(lambda: "carbon.status" in tags(run_id))
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    carbon_otel.instrument(zone="FR")
    with mlflow.start_run():
        wait_for(lambda: mlflow.get_run(run_id).info.status != "RUNNING")
    carbon_otel.uninstrument()
    assert mlflow.get_run(run_id).info.status == "KILLED"


def test_a_run_left_open_at_exit_gets_its_total(store):
    process, run_id = launch(store, "sum(i * i for i in range(3_000_000))")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert wh(run_id) > 0
    assert tags(run_id)["carbon.status"] == "final"
    assert mlflow.get_run(run_id).info.status == "FINISHED"

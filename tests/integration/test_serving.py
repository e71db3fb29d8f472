"""Predictions of MLflow's models outside of runs are entries of the model's ledger."""

from __future__ import annotations

import time

import pytest

import carbon_otel
from carbon_otel.mlflow.schema import names
from tests.fakes.drawing import trickle
from tests.fakes.powercap import server
from tests.integration.processes import wait_for
from tests.integration.servers import model_server
from tests.integration.stores import tracking

mlflow = pytest.importorskip("mlflow")

MODEL = """
import mlflow
class Model(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return [sum(i * i for i in range(2000)) for _ in range(len(model_input))]
    def predict_stream(self, context, model_input, params=None):
        yield from "abc"
mlflow.models.set_model(Model())
"""


class Made:
    def __init__(self, folder, uri) -> None:
        self.folder, self.uri = folder, uri
        self.tree = server(folder / "sys")
        (folder / "model.py").write_text(MODEL)
        experiment = mlflow.create_experiment("scores", artifact_location=(folder / "artifacts").as_uri())
        with mlflow.start_run(run_name="train", experiment_id=experiment) as run:
            info = mlflow.pyfunc.log_model(name="model", python_model=str(folder / "model.py"))
        self.run_id, self.model_id, self.model_uri = run.info.run_id, info.model_id, info.model_uri

    def entries(self):
        """The runs on the ledger."""
        client = mlflow.MlflowClient(self.uri)
        ledger = client.get_experiment_by_name("carbon-ledger")
        return client.search_runs([ledger.experiment_id]) if ledger else []


@pytest.fixture(scope="module")
def made(tmp_path_factory, empty_store):
    folder = tmp_path_factory.mktemp("made")
    with tracking(empty_store.copy(folder)) as uri:
        made = Made(folder, uri)
        with trickle(made.tree.package[0]):
            yield made


@pytest.fixture
def measured(made):
    known = {run.info.run_id for run in made.entries()}
    carbon_otel.instrument(zone="FR", powercap_root=made.tree.root, interval_s=0.1, checkpoint_interval_s=0.3)

    def fresh():
        carbon_otel.uninstrument()
        return [run for run in made.entries() if run.info.run_id not in known]

    yield fresh
    carbon_otel.uninstrument()


def draw(made, joules):
    time.sleep(0.01)
    made.tree.package[0].add(joules)


def figures(run):
    return names.unpack(run.data.metrics, run.data.tags)


def requests(run):
    """The requests of an entry; 0 before its first batch of metrics."""
    return figures(run)[0].get("carbon/units/inference/requests", 0)


def joules(run):
    return figures(run)[0]["carbon/inference/energy_wh"] * 3600


def test_predictions_are_an_entry_of_their_model(made, measured):
    model = mlflow.pyfunc.load_model(made.model_uri)
    model.predict([1])
    for _ in range(10):
        model.predict([1, 2, 3])
        draw(made, 1)
    model.predict([1])
    process = carbon_otel.footprint()
    (entry,) = measured()
    metrics, tags = figures(entry)
    assert tags["carbon.model_id"] == made.model_id and tags["carbon.source_run_id"] == made.run_id
    assert tags["carbon.status"] == "final" and entry.info.status == "FINISHED"
    assert tags["carbon.method"] == "measured.counter" and tags["carbon.zone"] == "FR"
    assert metrics["carbon/units/inference/requests"] == 12
    assert metrics["carbon/units/inference/rows"] == 32
    assert joules(entry) == pytest.approx(process.stages["inference"][0], rel=0.2)
    assert joules(entry) == pytest.approx(10, rel=0.5)
    report = carbon_otel.report("scores", tracking_uri=made.uri)
    assert report.by_stage["inference"][0] * 3600 >= joules(entry) * (1 - 1e-9)


def test_between_predictions_nothing_is_charged_to_the_model(made, measured):
    model = mlflow.pyfunc.load_model(made.model_uri)
    model.predict([1])
    for _ in range(2):  # the second tick sees that no prediction has come since the first
        carbon_otel.flush()
    for _ in range(5):
        draw(made, 10)
    (entry,) = measured()
    assert joules(entry) < 5


def test_predictions_within_a_stage_or_a_run_are_no_entry(made, measured):
    model = mlflow.pyfunc.load_model(made.model_uri)
    with carbon_otel.stage("evaluation"):
        model.predict([1])
    with mlflow.start_run():
        model.predict([1])
    assert measured() == []


def test_a_stream_is_one_request(made, measured):
    model = mlflow.pyfunc.load_model(made.model_uri)
    assert list(model.predict_stream({"a": "b"})) == ["a", "b", "c"]
    (entry,) = measured()
    assert requests(entry) == 1


def test_an_exception_of_the_model_passes_through_and_the_request_counts(made, measured):
    model = mlflow.pyfunc.load_model(made.model_uri)
    with pytest.raises(TypeError):
        model.predict()
    with pytest.raises(Exception, match="len"):
        model.predict(5)
    (entry,) = measured()
    assert requests(entry) == 1


def test_each_window_is_an_entry(made, measured, monkeypatch):
    monkeypatch.setattr("carbon_otel.mlflow.standalone.inference._WINDOW_S", 0.3)
    model = mlflow.pyfunc.load_model(made.model_uri)
    for _ in range(10):
        model.predict([1])
        time.sleep(0.1)
    entries = measured()
    assert len(entries) >= 2
    assert sum(requests(e) for e in entries) == 10
    assert {e.info.status for e in entries} == {"FINISHED"}


def test_a_prediction_is_hardly_slower(made):
    """A guard against reading hardware or a store at each prediction, not a budget.

    The CPU time of the fastest of many predictions depends little on the load of the machine.
    """
    model = mlflow.pyfunc.load_model(made.model_uri)

    def fastest_us():
        taken_ns = []
        for _ in range(300):
            begun_ns = time.thread_time_ns()
            model.predict([1])
            taken_ns.append(time.thread_time_ns() - begun_ns)
        return min(taken_ns) / 1e3

    plain_us = fastest_us()
    carbon_otel.instrument(zone="FR", powercap_root=made.tree.root)
    model.predict([1])
    measured_us = fastest_us()
    carbon_otel.uninstrument()
    print(f"predict: {plain_us:.0f} us plain, {measured_us:.0f} us measured")
    assert measured_us < plain_us + 300


@pytest.mark.chaos
def test_served_by_two_workers(made, tmp_path):
    """`mlflow models serve` under `carbon-otel run --children`: the workers count every request."""
    before = {run.info.run_id for run in made.entries()}
    variables = {
        "MLFLOW_TRACKING_URI": made.uri,
        "CARBON_OTEL_POWERCAP_ROOT": str(made.tree.root),
        "CARBON_OTEL_CHECKPOINT_INTERVAL_S": "0.5",
    }

    def fresh():
        return [run for run in made.entries() if run.info.run_id not in before]

    with model_server(tmp_path, made.model_uri, **variables) as served:
        for _ in range(40):
            assert len(served.predict([1, 2])) == 2
            draw(made, 1)
        wait_for(lambda: sum(requests(run) for run in fresh()) >= 40)
        assert sum(requests(run) for run in fresh()) == 40
        assert {figures(run)[1]["carbon.model_id"] for run in fresh()} == {made.model_id}

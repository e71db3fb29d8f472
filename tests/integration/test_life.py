"""The life of one model, in many processes: the report is the sum of their energy.

Runs and the batch report their energy in their journals, served workers by OTLP, the simulated month by its
devices. The energy of the killed attempt is the part in the store.
"""

from __future__ import annotations

import contextlib
import json
import random
import time
from calendar import timegm
from collections import defaultdict
from dataclasses import replace
from datetime import datetime, timezone

import pytest
from typer.testing import CliRunner

import carbon_otel
from carbon_otel.carbon.grid import intensity
from carbon_otel.cli import app
from carbon_otel.intensity.pricing import price
from carbon_otel.lifecycle.by_hour import uses_of
from carbon_otel.mlflow.schema import contributions
from tests.fakes import postgres
from tests.fakes.drawing import trickle
from tests.fakes.powercap import server
from tests.fakes.replica import Replica
from tests.integration.processes import wait_for
from tests.integration.servers import MlflowServer, model_server
from tests.integration.soak import brief_and_long
from tests.integration.stores import tracking

mlflow = pytest.importorskip("mlflow")

pytestmark = pytest.mark.chaos

MODEL = """
import mlflow
class Model(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return [sum(i * i for i in range(2000)) for _ in range(len(model_input))]
mlflow.models.set_model(Model())
"""
PUE = 1.2


@pytest.fixture(params=["sqlite", "postgresql"])
def uri(request, tmp_path, empty_store):
    with contextlib.ExitStack() as stack:
        if request.param == "sqlite":
            store = empty_store.copy(tmp_path)
        elif postgres.programs() is None:
            pytest.skip("needs Debian's package postgresql")
        else:
            # Through a server, as teams use it; sqlite directly, as notebooks do.
            web = MlflowServer(tmp_path, stack.enter_context(postgres.running()))
            stack.callback(web.kill)
            web.start()
            store = web.url
        yield stack.enter_context(tracking(store))


class Life:
    """The work for a model, on one fake package; `used` is the energy of its processes, by stage."""

    def __init__(self, folder, uri, tree, launch, sink) -> None:
        self.folder, self.uri, self.tree, self.launch, self.sink = folder, uri, tree, launch, sink
        self.used: dict[str, float] = defaultdict(float)
        # Embodied grams by stage, but for the killed attempt and the served workers.
        self.embodied: dict[str, float] = defaultdict(float)
        self.drawn: dict[str, float] = defaultdict(float)
        self.requests = 0
        # The joules by stage in the journals of the processes, for the message of a failure.
        self.reported: dict[str, dict[str, float]] = {}
        (folder / "model.py").write_text(MODEL)
        artifacts = (folder / "artifacts").as_uri()
        self.features, self.experiment = (
            mlflow.create_experiment(name, artifact_location=artifacts) for name in ("features", "clicks")
        )

    def draw(self, kind, joules):
        for _ in range(joules):
            time.sleep(0.005)
            self.tree.package[0].add(1)
        self.drawn[kind] += joules

    def keep_books(self, journal):
        state = json.loads(journal.read_text())
        assert state["status"] == "final"
        stages = state["footprint"]["stages"]
        self.reported[journal.stem] = {kind: round(spent["energy_j"], 1) for kind, spent in stages.items()}
        for kind, spent in stages.items():
            if kind != "unattributed":
                self.used[kind] += spent["energy_j"]
                self.embodied[kind] += state["footprint"]["embodied_by_kind"][kind]

    def run(self, name, kind, joules, *, end="go", model="", experiment=None):
        journal = self.folder / f"{name}.json"
        arguments = (self.uri, str(self.tree.root), experiment or self.experiment, name, kind, model)
        program = self.launch("life.py", *arguments, CARBON_OTEL_JOURNAL=str(journal))
        run_id = program.line()
        self.draw(kind, joules)
        if end == "kill":
            self.kill(program, run_id, joules)
        else:
            program.process.communicate(f"{end} {joules}\n", timeout=120)
            assert (program.process.returncode == 0) == (end == "go")
            self.keep_books(journal)

    def kill(self, program, run_id, joules):
        self.killed_id = run_id
        wait_for(lambda: self.killed()["training"] >= joules - 0.5)
        program.kill()

    def killed(self):
        """The figures of the killed attempt in the store. The next process sends only batches in its spool."""
        data = mlflow.MlflowClient(self.uri).get_run(self.killed_id).data
        # The exact sums are in a tag; metrics get fewer points.
        found, _ = contributions.figures_and_tags(data.metrics, data.tags)
        return {kind: found.get(f"carbon/{kind}/energy_wh", 0.0) * 3600 for kind in ("training", "run")}

    def score(self):
        journal = self.folder / "score.json"
        program = self.launch("score.py", self.uri, str(self.tree.root), CARBON_OTEL_JOURNAL=str(journal))
        assert program.line() == "ready"
        for _ in range(20):
            program.go()
            self.draw("inference", 1)
            self.requests += 1
        program.finish()
        self.keep_books(journal)

    def serve(self):
        """Two workers that end after their answers; their energy arrives by OTLP."""
        variables = {
            "MLFLOW_TRACKING_URI": self.uri,
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.sink.url,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "CARBON_OTEL_POWERCAP_ROOT": str(self.tree.root),
            "CARBON_OTEL_CHECKPOINT_INTERVAL_S": "0.5",
            "CARBON_OTEL_PUE": str(PUE),
        }
        with model_server(self.folder, "models:/clicks-model@champion", **variables) as served:
            for _ in range(40):
                assert len(served.predict([1, 2])) == 2
                self.draw("inference", 1)
                self.requests += 1
            served.terminate()
            served.wait_for_workers()
        by_worker = {}
        for instance, metric in self.sink.exports():
            if metric.name == "carbon_otel.stage.energy":
                for point in metric.sum.data_points:
                    attributes = {a.key: a.value.string_value for a in point.attributes}
                    if "inference" in attributes.values():
                        by_worker[instance, str(sorted(attributes.items()))] = point.as_double
        assert len({instance for instance, _ in by_worker}) in (1, 2), served.output()
        self.used["inference"] += sum(by_worker.values())

    def simulate(self, model_id, run_id, days):
        """Days of one replica on a virtual clock, with a different power each hour."""
        load = random.Random(30)
        replica = Replica(self.folder / "simulated", timegm((2025, 12, 31, 0, 0, 0)), PUE)
        device = replica.device
        self.by_month = defaultdict(float)
        for _ in range(days * 24):
            device.watts = load.randrange(20, 200)
            before_j, month = device.spent_j, time.strftime("%Y-%m", time.gmtime(replica.now_s))
            began_s = replica.now_s
            window, token = replica.predictions.predicting(model_id, run_id)
            for _ in range(load.randrange(1, 7)):
                replica.clock.advance(300)
                replica.tick()  # the counter wraps after 20 minutes at 200 W
            replica.predictions.predicted(window, token, rows=10)
            # For the time of the window, whatever power it has drawn.
            self.embodied["inference"] += (replica.now_s - began_s) * replica.life.reserved.host
            spent_j = device.spent_j - before_j
            replica.tick()
            replica.tick()
            replica.clock.advance(3600 - replica.now_s % 3600)
            replica.tick()
            self.used["inference"] += spent_j
            self.drawn["inference"] += spent_j
            self.by_month[month] += spent_j
            self.requests += 1
        replica.end()


def check_embodied(life, report):
    """Every entry has it apart from its emissions, and the ledger what the processes have paid, idle included."""
    made = report.beside
    assert made.embodied_unknown == () and made.market_g is None
    assert made.embodied_by_stage["evaluation"] == pytest.approx(life.embodied["evaluation"], rel=1e-9)
    # On a busy machine, making the data set takes long enough to share the process's time before its run begins.
    of_runs, of_processes = made.embodied_by_stage["data_processing"], life.embodied["data_processing"]
    assert 0 < of_runs <= of_processes * (1 + 1e-9)
    # The killed attempt and the served workers have no journal.
    for kind in ("training", "run", "inference"):
        assert made.embodied_by_stage[kind] >= life.embodied[kind] * (1 - 1e-9)
    assert made.embodied_g == pytest.approx(sum(made.embodied_by_stage.values()), rel=1e-9)
    assert made.embodied_low_g < made.embodied_g < made.embodied_high_g
    assert set(made.sci) == set(report.per_unit)
    for unit, grams in made.sci.items():
        assert grams > report.per_unit[unit].emissions_g


def check_hours(report):
    """The quarter-hours of each entry are its energy. By one intensity for all, they cost what was logged."""
    start, end = (datetime(year, 1, 1, tzinfo=timezone.utc) for year in (2020, 2100))
    hours = [replace(intensity("FR"), start=start, end=end)]
    for entry in report.entries:
        priced = price(uses_of(entry), hours, PUE)
        assert priced.total_wh == pytest.approx(entry.energy_wh, rel=1e-9), entry.name
        assert priced.emissions_g == pytest.approx(entry.emissions_g, rel=1e-9), entry.name


@brief_and_long("days", 2, 30)
def test_the_life_of_a_model(days, tmp_path, uri, launch, sink, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    tree = server(tmp_path / "sys")
    with trickle(tree.package[0]):
        live(Life(tmp_path, uri, tree, launch, sink), days)


def live(life, days):
    uri = life.uri
    life.run("prepare", "data_processing", 8, experiment=life.features)
    for number in range(2):
        life.run(f"attempt {number}", "training", 10 + number)
    life.run("attempt 2", "training", 7, end="fail")
    life.run("attempt 3", "training", 6, end="kill")
    life.run("attempt 4", "training", 15, model=str(life.folder / "model.py"))
    life.run("evaluate", "evaluation", 5)
    client = mlflow.MlflowClient(uri)
    client.set_registered_model_alias("clicks-model", "champion", "1")
    life.score()
    life.serve()
    version = client.get_model_version("clicks-model", "1")
    model = mlflow.pyfunc.load_model("models:/clicks-model/1")
    began = time.monotonic()
    life.simulate(model.model_id, version.run_id, days)
    wrote_s = time.monotonic() - began
    for kind, joules in life.killed().items():
        life.used[kind] += joules

    # A server's last window may wait on disk: its process ended by a signal, after 2 s at most.
    sent = CliRunner().invoke(app, ["mlflow", "sync", "--tracking-uri", uri])
    assert sent.exit_code == 0, sent.output
    report = carbon_otel.report("clicks-model@champion", tracking_uri=uri)
    by_stage = {kind: wh * 3600 for kind, (wh, _) in report.by_stage.items()}
    # The trickle may go on between the end of a stage and the reading of what was drawn.
    expected = {kind: pytest.approx(joules, rel=1e-9, abs=1e-5) for kind, joules in life.used.items()}
    assert by_stage == expected
    assert report.total.energy_wh * 3600 == pytest.approx(sum(life.used.values()), rel=1e-9)
    check_embodied(life, report)
    check_hours(report)
    factor = intensity("FR").g_per_kwh * PUE / 3.6e6
    assert report.total.emissions_g == pytest.approx(sum(life.used.values()) * factor, rel=1e-9)
    for kind in ("data_processing", "training", "evaluation"):
        assert by_stage[kind] == pytest.approx(life.drawn[kind], rel=0.1, abs=4), (
            life.reported,
            life.killed(),
        )
    assert {e.name: e.status for e in report.entries if not e.is_window} == {
        "prepare": "FINISHED",
        "attempt 0": "FINISHED",
        "attempt 1": "FINISHED",
        "attempt 2": "FAILED",
        "attempt 3": "RUNNING",
        "attempt 4": "FINISHED",
        "evaluate": "FINISHED",
    }
    assert report.lower_bounds == ("attempt 3 has not ended in order",)
    assert [line.partition(" made")[0] for line in report.prepared_elsewhere] == ["prepare"]
    assert sum(e.units.get("inference/requests", 0) for e in report.entries) == life.requests
    own_month = time.strftime("%Y-%m", time.gmtime())
    for month, joules in life.by_month.items():
        if month != own_month:
            assert report.by_month[month][0] * 3600 == pytest.approx(joules, rel=1e-9)
    windows = [e for e in report.entries if e.is_window and e.tags["carbon.hardware"] == "simulated"]
    assert len(windows) == days * 24 and {e.status for e in windows} == {"FINISHED"}
    assert report.passed_training == "2025-12-31"
    print(f"{len(report.entries)} entries; {len(windows)} written in {wrote_s:.0f} s")

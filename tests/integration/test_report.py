"""A model's life in a real store: `carbon-otel report` compared with the sum that the test computes."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

import carbon_otel
from carbon_otel.cli import app
from tests.fakes import postgres
from tests.fakes.drawing import trickle
from tests.fakes.powercap import server
from tests.integration.processes import wait_for
from tests.integration.stores import tracking

mlflow = pytest.importorskip("mlflow")


class Life:
    """Runs that draw known joules on a fake package; `truth` adds them up by run and stage."""

    def __init__(self, folder, uri) -> None:
        self.uri = uri
        self.artifacts = folder.as_uri()
        self.tree = server(folder / "sys")
        self.truth: dict[str, dict[str, float]] = {}
        self.experiment = mlflow.create_experiment("churn", artifact_location=folder.as_uri())

    def draw(self, run, stage, joules):
        time.sleep(0.02)
        self.tree.package[0].add(joules)
        of_run = self.truth.setdefault(run, {})
        of_run[stage] = of_run.get(stage, 0.0) + joules

    def stage(self, run, kind, joules, **units):
        with carbon_otel.stage(kind) as s:
            self.draw(run, kind, joules)
            s.units(**units)

    def total(self):
        """The energy of the runs as reported by the processes, of the killed one at its last checkpoint."""
        # Read only now, because the next process sends the waiting batches of the killed one.
        killed = mlflow.MlflowClient(self.uri).get_run(self.killed_id).data.metrics
        return pytest.approx(self.in_runs_j + killed["carbon/energy_wh"] * 3600, rel=1e-9)

    def joules(self, kind=None):
        return sum(j for stages in self.truth.values() for k, j in stages.items() if kind in (None, k))


def near(joules):
    """Tolerance: for 5 ms an unchanged counter gives no information, and the last power is assumed."""
    return pytest.approx(joules, rel=0.05, abs=2.5)


KILLED = """
import os, sys, time
import mlflow, carbon_otel
uri, root, experiment = sys.argv[1:]
mlflow.set_tracking_uri(uri)
carbon_otel.instrument(zone="FR", powercap_root=root, interval_s=0.05, checkpoint_interval_s=0.1, pue=1.5)
run = mlflow.start_run(run_name="attempt 3", experiment_id=experiment)
print(run.info.run_id, flush=True)
with carbon_otel.stage("training"):
    sys.stdin.readline()
"""


def killed(life):
    """An attempt in a separate process that is killed after a checkpoint of its 6 J."""
    attempt = subprocess.Popen(
        [sys.executable, "-c", KILLED, life.uri, str(life.tree.root), life.experiment],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    run_id = attempt.stdout.readline().strip()
    client = mlflow.MlflowClient(life.uri)

    def written():
        return client.get_run(run_id).data.metrics.get("carbon/training/energy_wh", 0.0) * 3600

    for _ in range(6):
        life.draw("attempt 3", "training", 1)
    wait_for(lambda: written() >= 5.5)
    attempt.send_signal(signal.SIGKILL)
    attempt.communicate()
    life.killed_id = run_id


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def life(request, tmp_path_factory, empty_store):
    folder = tmp_path_factory.mktemp("life")
    with contextlib.ExitStack() as stack:
        if request.param == "sqlite":
            uri = empty_store.copy(folder)
        elif postgres.programs() is None:
            pytest.skip("needs Debian's package postgresql")
        else:
            uri = stack.enter_context(postgres.running())
        stack.enter_context(tracking(uri))
        life = Life(folder, uri)
        stack.enter_context(trickle(life.tree.package[0]))
        stack.callback(carbon_otel.uninstrument)
        yield lived(life, folder)


def lived(life, folder):
    settings = {"zone": "FR", "powercap_root": life.tree.root, "interval_s": 30, "pue": 1.5}
    begin = {"experiment_id": life.experiment}
    with mlflow.start_run(run_name="not measured", **begin):
        pass
    killed(life)  # alone on the package, so that its energy is not shared
    carbon_otel.instrument(**settings)
    with mlflow.start_run(run_name="prepare", **begin):
        life.stage("prepare", "data_processing", 3)
    with mlflow.start_run(run_name="search", **begin):
        life.draw("search", "run", 1)
        for number in range(2):
            with mlflow.start_run(run_name=f"attempt {number}", nested=True, **begin):
                mlflow.log_params({"depth": 4 + number, "seed": 7})
                mlflow.log_metric("accuracy", 0.8125 + number / 16)
                life.stage(f"attempt {number}", "training", 5 + number, samples=100)
        life.stage("search", "evaluation", 2)
    mlflow.start_run(run_name="attempt 2", **begin)
    life.stage("attempt 2", "training", 4)
    mlflow.end_run("FAILED")
    with mlflow.start_run(run_name="batch", **begin) as run:
        life.stage("batch", "inference", 30, requests=4000)
    client = mlflow.MlflowClient()
    client.create_registered_model("churn-model")
    client.create_model_version("churn-model", folder.as_uri(), run.info.run_id)
    client.set_registered_model_alias("churn-model", "champion", "1")
    life.run_id = run.info.run_id
    process = carbon_otel.footprint()
    life.in_runs_j = process.energy_j - process.exclusive_j
    carbon_otel.uninstrument()
    carbon_otel.instrument(lineage="elsewhere", **settings)
    other = mlflow.create_experiment("other", artifact_location=folder.as_uri())
    with mlflow.start_run(run_name="elsewhere 1", experiment_id=other):
        life.tree.package[0].add(7)
    carbon_otel.uninstrument()
    return life


@pytest.mark.parametrize(
    "name",
    ["churn", "churn-model", "churn-model/1", "churn-model@champion", "models:/churn-model/1"],
)
def test_every_name_of_the_model_gives_the_energy_that_was_drawn(life, name):
    report = carbon_otel.report(name, tracking_uri=life.uri)
    assert report.total.energy_wh * 3600 == life.total()
    assert report.total.energy_wh * 3600 == near(life.joules())
    for kind in ("data_processing", "training", "evaluation", "inference", "run"):
        assert report.by_stage[kind][0] * 3600 == near(life.joules(kind))
    own = {entry.name: entry.energy_wh * 3600 for entry in report.entries}
    assert own == {run: near(sum(j.values())) for run, j in life.truth.items()}
    assert report.unmeasured == ("not measured",)
    assert {e.name: e.status for e in report.entries}["attempt 2"] == "FAILED"
    assert report.lower_bounds == ("attempt 3 has not ended in order",)
    assert report.total.low_wh < report.total.energy_wh < report.total.high_wh
    assert report.measured_fraction == pytest.approx(1)


def test_a_run_id_gives_that_run_and_the_runs_in_it(life):
    whole = carbon_otel.report("churn", tracking_uri=life.uri)
    ids = {entry.name: entry.run_id for entry in whole.entries}
    (batch,) = carbon_otel.report(ids["batch"], tracking_uri=life.uri).entries
    assert batch.run_id == ids["batch"]
    search = carbon_otel.report(ids["search"], tracking_uri=life.uri)
    assert {entry.name for entry in search.entries} == {"search", "attempt 0", "attempt 1"}
    metrics = mlflow.MlflowClient(life.uri).get_run(ids["search"]).data.metrics
    assert search.total.energy_wh == pytest.approx(metrics["carbon/energy_wh"])


def test_a_lineage_across_experiments(life):
    report = carbon_otel.report("elsewhere", tracking_uri=life.uri)
    assert [entry.name for entry in report.entries] == ["elsewhere 1"]


def test_units_and_when_inference_passed_training(life):
    report = carbon_otel.report("churn", tracking_uri=life.uri)
    assert report.per_unit["requests"][0] * 3600 == pytest.approx(30 / 4000, rel=0.15)
    assert report.passed_training == time.strftime("%Y-%m-%d", time.gmtime())
    run = mlflow.MlflowClient(life.uri).get_run(life.run_id)
    assert run.data.metrics["carbon/inference/j_per_1k_requests"] == pytest.approx(7.5, rel=0.15)


def test_emissions_recomputed_for_another_grid(life):
    france, poland = (carbon_otel.report("churn", tracking_uri=life.uri, zone=z) for z in ("FR", "PL"))
    as_logged = carbon_otel.report("churn", tracking_uri=life.uri)
    assert france.total.emissions_g == pytest.approx(as_logged.total.emissions_g, rel=1e-6)
    assert poland.total.emissions_g > 10 * france.total.emissions_g
    assert poland.total.energy_wh == france.total.energy_wh
    assert "Poland" in poland.recomputed_for


def test_emissions_recomputed_for_another_year(life):
    """In this year half of France's reactors were out of service."""
    as_logged = carbon_otel.report("churn", tracking_uri=life.uri)
    then = carbon_otel.report("churn", tracking_uri=life.uri, year=2022)
    assert then.total.emissions_g > 1.5 * as_logged.total.emissions_g
    assert then.total.energy_wh == as_logged.total.energy_wh
    assert then.recomputed_for.startswith("France 2022 (78.5 g/kWh")
    with pytest.raises(ValueError, match="the table has"):
        carbon_otel.report("churn", tracking_uri=life.uri, year=1999)


def test_totals_are_saved_on_the_model_with_their_date(life):
    done = report(life, "churn-model", "--save")
    assert done.exit_code == 0, done.output
    tags = mlflow.MlflowClient(life.uri).get_model_version("churn-model", "1").tags
    assert float(tags["carbon.lifecycle.energy_wh"]) * 3600 == pytest.approx(life.total().expected, rel=1e-4)
    assert tags["carbon.lifecycle.as_of"].startswith(time.strftime("%Y-", time.gmtime()))
    assert tags["carbon.lifecycle.entries"] == "7"
    refused = report(life, "churn", "--save")
    assert refused.exit_code == 2 and "is not a model" in refused.output


def test_months_and_days_have_the_same_sum(life):
    result = carbon_otel.report("churn", tracking_uri=life.uri)
    assert sum(wh for wh, _ in result.by_month.values()) == pytest.approx(result.total.energy_wh, rel=1e-9)
    assert result.amortisation[-1][1] == pytest.approx(result.by_stage["inference"][0], rel=1e-9)
    assert [a.name for a in result.attempts] == [e.name for e in result.entries]


def test_a_frame(life):
    frame = carbon_otel.report("churn", tracking_uri=life.uri).frame()
    assert frame.groupby("stage").energy_wh.sum()["training"] * 3600 == near(21)


def report(life, *arguments):
    return CliRunner().invoke(app, ["report", "--tracking-uri", life.uri, *arguments], env={"COLUMNS": "120"})


def test_a_table(life):
    done = report(life, "churn-model")
    assert done.exit_code == 0, done.output
    for shown in (
        "churn-model, experiment churn: 7 entries",
        "attempt 2",
        "FAILED",
        "100% by a sensor",
    ):
        assert shown in done.stdout
    assert "not measured: not measured" in done.stdout


def test_a_report_as_json(life):
    result = json.loads(report(life, "churn", "--format", "json").stdout)
    assert result["energy_wh"] * 3600 == life.total()
    rows = list(csv.DictReader(io.StringIO(report(life, "churn", "--format", "csv").stdout)))
    assert sum(float(row["energy_wh"]) for row in rows) * 3600 == life.total()


def test_in_the_columns_of_codecarbon(life):
    result = report(life, "churn", "--format", "codecarbon").stdout
    rows = list(csv.DictReader(io.StringIO(result)))
    assert sum(float(row["energy_consumed"]) for row in rows) * 3.6e6 == life.total()
    assert {(row["country_name"], row["country_iso_code"]) for row in rows} == {("France", "FRA")}
    assert {(row["tracking_mode"], row["on_cloud"]) for row in rows} == {("machine", "N")}
    for row in rows:
        parts_kwh = sum(float(row[f"{part}_energy"]) for part in ("cpu", "gpu", "ram"))
        assert parts_kwh == pytest.approx(float(row["energy_consumed"]), rel=1e-9)
        assert float(row["cpu_power"]) * float(row["duration"]) / 3.6e6 == pytest.approx(
            float(row["cpu_energy"]), rel=1e-9
        )


def test_a_page_is_self_contained_and_has_the_parameters_that_differ(life, monkeypatch):
    words = ("churn", "--format", "html", "--metric", "accuracy")
    monkeypatch.setattr("sys.argv", ["/usr/bin/carbon-otel", "report", *words])
    done = report(life, *words)
    page = done.stdout
    assert page.startswith("<!doctype html>") and "failed" in page and "attempt 2" in page, done.stderr
    assert not [word for word in ("http://", "https://", "<script", "src=") if word in page]
    assert "<bdi>depth</bdi>" in page and "<bdi>seed</bdi>" not in page and "carbon/" not in page
    assert "0.8125" in page and "0.875" in page
    assert "<code>carbon-otel report churn --format html --metric accuracy</code>" in page


def test_a_metric_of_the_page_that_no_run_has_is_refused(life):
    done = report(life, "churn", "--format", "html", "--metric", "acuracy")
    assert done.exit_code == 2 and "none of these runs has a metric 'acuracy'" in done.stderr


def test_a_page_with_another_grid_names_the_grid(life):
    page = report(life, "churn", "--format", "html", "--zone", "PL", "--year", "2022").stdout
    assert "emissions recomputed for Poland 2022" in page
    sources = page[page.index('id="sources"') : page.index('id="glossary"')]
    assert "measured.counter" in sources and "2022" in sources
    assert "<td>PL, " in sources and "<td>FR, " not in sources


@pytest.mark.parametrize("name", ["team/churn", "/Users/a@b/churn", "O'Brien's"])
def test_experiments_and_lineages_have_any_name(life, name):
    mlflow.set_tracking_uri(life.uri)
    lineage = f"lineage {name.replace(chr(39), '')}"
    carbon_otel.instrument(zone="FR", powercap_root=life.tree.root, interval_s=0.05, lineage=lineage)
    try:
        experiment = mlflow.create_experiment(name, artifact_location=life.artifacts)
        with mlflow.start_run(experiment_id=experiment) as run, carbon_otel.stage("training"):
            time.sleep(0.02)
            life.tree.package[0].add(5)
    finally:
        carbon_otel.uninstrument()
    for asked in (name, run.info.run_id, lineage):
        (entry,) = carbon_otel.report(asked, tracking_uri=life.uri).entries
        assert entry.run_id == run.info.run_id


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing",), "no registered model, model id, run id, experiment or lineage 'nothing'"),
        (("nothing",), "in the MLflow store {store}; its experiments are "),
        (("churn-model/9",), "lineage 'churn-model/9'"),
        (("0" * 32,), "no registered model"),
        (("models:/m-" + "0" * 32,), "no registered model"),
        (("churn", "--year", "1990"), "no figure of France for 1990"),
        (("churn", "--zone", "XX"), "unknown zone 'XX'"),
        (("churn", "--tracking-uri", "sqlite:///none.db"), "no MLflow store"),
    ],
)
def test_a_name_that_cannot_be_reported_gives_advice(arguments, message, life):
    done = report(life, *arguments)
    assert (
        done.exit_code == 2
        and message.format(store=life.uri) in done.output
        and "Traceback" not in done.output
    )

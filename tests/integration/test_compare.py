"""`carbon-otel compare` on real runs in a real store."""

from __future__ import annotations

import json
import re
import time

import pytest
from typer.testing import CliRunner

import carbon_otel
from carbon_otel.cli import app
from tests.fakes.powercap import server
from tests.integration.stores import tracking
from tests.integration.test_cli import carbon_otel_cli

mlflow = pytest.importorskip("mlflow")


@pytest.fixture(scope="module")
def store(tmp_path_factory, empty_store):
    """A store with a run measured by counters, a modelled run, and a run that was not measured."""
    folder = tmp_path_factory.mktemp("store")
    with tracking(empty_store.copy(folder)) as uri:
        # By id: `set_experiment` would stay in the environment of the tests that follow.
        tests = mlflow.create_experiment("tests", artifact_location=folder.as_uri())
        with mlflow.start_run(run_name="plain", experiment_id=tests) as plain:
            pass
        tree = server(folder / "sys")
        (folder / "none").mkdir()
        ids = {"plain": plain.info.run_id, "uri": uri}
        for name, root in (("counted", tree.root), ("modelled", folder / "none")):
            carbon_otel.instrument(zone="FR", powercap_root=root, interval_s=0.05)
            with mlflow.start_run(run_name=name, experiment_id=tests) as run:
                for _ in range(10):
                    time.sleep(0.02)
                    tree.package[0].add(1)
                mlflow.log_metric("accuracy", 0.9)
            ids[name] = run.info.run_id
            carbon_otel.uninstrument()
        yield ids


@pytest.fixture
def compare(store, monkeypatch, tmp_path):
    """The command in this process, which has loaded MLflow, in a separate folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    mlflow.set_tracking_uri(store["uri"])

    def compare(*arguments):
        names = (argument.format(**store) for argument in arguments)
        return CliRunner().invoke(app, ["compare", *names], env={"COLUMNS": "100"})

    return compare


def test_two_runs_side_by_side_and_how_they_differ(store, tmp_path):
    ids = store["counted"], store["modelled"]
    done = carbon_otel_cli("compare", *ids, cwd=tmp_path, MLFLOW_TRACKING_URI=store["uri"])
    assert done.returncode == 0, done.stderr
    assert "counted" in done.stdout and "energy than counted" in done.stdout
    assert (
        re.search(r"emissions, [mµ]?g CO2e", done.stdout)
        and "hardware" in done.stdout
        and "reserved" in done.stdout
    )
    assert "unknown" not in done.stdout
    assert "They were not measured in the same way" in done.stdout
    assert "counted: measured.counter" in done.stdout and "modelled: modelled.utilisation" in done.stdout


def test_an_experiment_as_json(compare):
    done = compare("--experiment", "tests", "--json")
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert [run["name"] for run in report["runs"]] == ["counted", "modelled"]
    assert report["runs"][0]["energy_wh"] == pytest.approx(10 / 3600, rel=0.5)
    assert len(report["verdicts"]) == 1
    assert any(line.startswith("method") for line in report["not_alike"])
    assert "plain" in done.stderr and "carbon/energy_wh" in done.stderr
    assert report["unreadable"] == []


def test_a_run_that_cannot_be_read_is_named_and_the_others_are_compared(compare, store):
    client = mlflow.MlflowClient()
    client.set_tag(store["plain"], "carbon.window", '{"metrics"')
    try:
        done = compare("--experiment", "tests", "--json")
        assert [run["name"] for run in json.loads(done.stdout)["runs"]] == ["counted", "modelled"]
        (line,) = json.loads(done.stdout)["unreadable"]
        assert line.startswith(f"run plain ({store['plain']}): carbon.window is cut") and line in done.stderr
        done = compare("{counted}", "{plain}")
        assert done.exit_code == 2 and "carbon.window is cut" in done.stderr
    finally:
        client.delete_tag(store["plain"], "carbon.window")


def test_quality_and_emissions(compare, store):
    done = compare("{counted}", "{modelled}", "--metric", "accuracy", "--json")
    report = json.loads(done.stdout)
    grams = {run["run_id"]: run["emissions_g"] for run in report["runs"]}
    cheapest = min(grams, key=grams.get)
    assert report["trade_off"]["runs"] == {run: {"value": 0.9, "pareto": run == cheapest} for run in grams}
    done = compare("{counted}", "{modelled}", "--metric", "accuracy")
    assert "accuracy" in done.stdout and "on the Pareto front" in done.stdout


def test_what_is_better_is_said_and_never_guessed(compare, store):
    """The run with the highest loss was marked as the best one."""
    client, runs = mlflow.MlflowClient(), [store["counted"], store["modelled"]]
    for run, loss in zip(runs, (0.3, 0.9), strict=True):
        client.log_metric(run, "val_loss", loss)
        client.log_metric(run, "fit", loss)
    report = json.loads(compare("{counted}", "{modelled}", "--metric", "val_loss", "--json").stdout)
    trade_off, grams = report["trade_off"], [run["emissions_g"] for run in report["runs"]]
    assert trade_off["lower_is_better"] is True
    assert [trade_off["runs"][run]["pareto"] for run in runs] == [True, grams[1] < grams[0]]
    assert "lower is better" in compare("{counted}", "{modelled}", "--metric", "val_loss").stdout
    page = compare("{counted}", "{modelled}", "--metric", "val_loss", "--format", "html").stdout
    assert "lower values are better" in page
    done = compare("{counted}", "{modelled}", "--metric", "fit")
    assert done.exit_code == 2 and "--lower-is-better or --higher-is-better" in done.stderr
    assert compare("{counted}", "{modelled}", "--metric", "fit", "--higher-is-better").exit_code == 0


def test_a_page(compare):
    done = compare("{counted}", "{modelled}", "--metric", "accuracy", "--format", "html")
    assert done.stdout.startswith("<!doctype html>")
    for shown in (
        "counted",
        "modelled",
        "energy than counted",
        "accuracy",
        "Pareto front",
        "modelled.utilisation",
    ):
        assert shown in done.stdout
    assert json.loads(compare("{counted}", "{modelled}", "--format", "json").stdout)["verdicts"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "write run ids or an experiment"),
        (("no-such-run", "another"), "no-such-run"),
        (("--experiment", "nothing"), "there is no experiment 'nothing'"),
        (("{plain}", "{counted}"), "call carbon_otel.instrument() before it"),
        (("{counted}",), "a comparison needs two"),
        (("{counted}", "{modelled}", "--metric", "f1"), "none of these runs has a metric 'f1'"),
        (("{counted}", "{counted}"), "occurs twice"),
        (("{counted}", "no-such-run"), "--tracking-uri"),
        (
            ("{counted}", "{plain}", "--tracking-uri", "sqlite:///none.db"),
            "no MLflow store at sqlite:///none.db",
        ),
        (("{counted}", "{plain}", "--tracking-uri", "nothing://x"), "MLFLOW_TRACKING_URI"),
        (("{counted}", "no-such-run"), "mlflow.db: Run with id=no-such-run not found\n"),
        (("--experiment", "nothing"), "its experiments are 'tests'"),
        (("{counted}", "{modelled}", "--metric", "f1"), "they have accuracy"),
    ],
)
def test_runs_that_cannot_be_compared_give_advice(arguments, message, compare, tmp_path):
    done = compare(*arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("http://127.0.0.1:9", "the MLflow store http://127.0.0.1:9 does not answer: Connection refused\n"),
        ("http://no-such-host.invalid", "the MLflow store http://no-such-host.invalid does not answer: "),
    ],
)
def test_a_store_that_fails_is_no_wrong_use(uri, message, compare, tmp_path):
    done = compare("{counted}", "{plain}", "--tracking-uri", uri)
    assert done.exit_code == 1
    assert message in done.stderr and "MLFLOW_TRACKING_URI" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())

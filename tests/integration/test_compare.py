"""`carbon-otel compare` on real runs in a real store."""

from __future__ import annotations

import json
import os
import time

import pytest

import carbon_otel
from tests.fakes.powercap import server
from tests.integration.test_cli import carbon_otel_cli

mlflow = pytest.importorskip("mlflow") if not os.environ.get("CI") else __import__("mlflow")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with a run measured by counters, one that was modelled, and one that was not measured."""
    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder}/mlflow.db"
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
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
    mlflow.set_tracking_uri(before)


def compare(store, *arguments, cwd):
    return carbon_otel_cli("compare", *arguments, cwd=cwd, MLFLOW_TRACKING_URI=store["uri"])


def test_two_runs_side_by_side_and_how_they_differ(store, tmp_path):
    done = compare(store, store["counted"], store["modelled"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "counted" in done.stdout and "energy than counted" in done.stdout
    assert "emissions, g CO2e" in done.stdout and "hardware" in done.stdout and "reserved" in done.stdout
    assert "unknown" not in done.stdout
    assert "They were not measured in the same way" in done.stdout
    assert "counted: measured.counter" in done.stdout and "modelled: modelled.utilisation" in done.stdout


def test_an_experiment_for_machines(store, tmp_path):
    done = compare(store, "--experiment", "tests", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [run["name"] for run in report["runs"]] == ["counted", "modelled"]
    assert report["runs"][0]["energy_wh"] == pytest.approx(10 / 3600, rel=0.5)
    assert len(report["verdicts"]) == 1
    assert any(line.startswith("method") for line in report["not_alike"])
    assert "plain" in done.stderr and "carbon/energy_wh" in done.stderr


def test_what_a_run_brings_for_what_it_costs(store, tmp_path):
    done = compare(store, store["counted"], store["modelled"], "--metric", "accuracy", "--json", cwd=tmp_path)
    told = json.loads(done.stdout)
    grams = {run["run_id"]: run["emissions_g"] for run in told["runs"]}
    cheapest = min(grams, key=grams.get)
    assert told["trade_off"]["runs"] == {run: {"value": 0.9, "pareto": run == cheapest} for run in grams}
    done = compare(store, store["counted"], store["modelled"], "--metric", "accuracy", cwd=tmp_path)
    assert "accuracy" in done.stdout and "no run is better for less" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "name the runs or an experiment"),
        (("no-such-run", "another"), "no-such-run"),
        (("--experiment", "nothing"), "there is no experiment 'nothing'"),
        (("{plain}", "{counted}"), "call carbon_otel.instrument() before it"),
        (("{counted}",), "it takes two"),
        (("{counted}", "{modelled}", "--metric", "f1"), "none of these runs has a metric 'f1'"),
        (("{counted}", "{counted}"), "named twice"),
        (("{counted}", "no-such-run"), "--tracking-uri"),
        (
            ("{counted}", "{plain}", "--tracking-uri", "sqlite:///none.db"),
            "no MLflow store at sqlite:///none.db",
        ),
        (("{counted}", "{plain}", "--tracking-uri", "http://127.0.0.1:9"), "http://127.0.0.1:9: API request"),
        (("{counted}", "{plain}", "--tracking-uri", "nothing://x"), "MLFLOW_TRACKING_URI"),
    ],
)
def test_what_cannot_be_compared_says_what_to_do(arguments, said, store, tmp_path):
    done = compare(store, *(argument.format(**store) for argument in arguments), cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())

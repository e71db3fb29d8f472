"""`carbon-otel prove` and `carbon_otel.prove` on real runs in a real store."""

from __future__ import annotations

import json
import time

import pytest
from typer.testing import CliRunner

import carbon_otel
from carbon_otel.cli import app
from carbon_otel.mlflow.schema import contributions
from tests.fakes.powercap import server
from tests.integration.stores import tracking

mlflow = pytest.importorskip("mlflow")


@pytest.fixture(scope="module")
def store(tmp_path_factory, empty_store):
    """Runs in turn whose inference has drawn about 10 or 5 J, a training of 25 J, and a run without figures."""
    folder = tmp_path_factory.mktemp("store")
    tree = server(folder / "sys")
    ids, made_ids = {}, []
    with tracking(empty_store.copy(folder)) as uri:
        # By id: `set_experiment` would stay in the environment of the tests that follow.
        places = [
            mlflow.create_experiment(name, artifact_location=folder.as_uri()) for name in ("tests", "other")
        ]

        def run(name, joules, *, accuracy=0.9, place=places[0], kind="inference", **tags):
            with mlflow.start_run(run_name=name, experiment_id=place, tags=tags) as made:
                with carbon_otel.stage(kind) as stage:
                    tree.package[0].add(joules)
                    time.sleep(0.02)  # a younger reading would be used again
                    stage.units(samples=1000)
                mlflow.log_metric("accuracy", accuracy)
            made_ids.append(made.info.run_id)
            return made.info.run_id

        carbon_otel.instrument(zone="FR", powercap_root=tree.root, interval_s=0.05)
        for i in range(3):
            ids[f"full{i}"] = run("full", 10 + 0.1 * i, model="full")
            ids[f"small{i}"] = run("small", 5 + 0.1 * i, model="small")
            run("worse", 5 + 0.1 * i, accuracy=0.5)
        run("once", 25, kind="training")
        run("twice", 1)
        run("twice", 1, place=places[1])
        carbon_otel.uninstrument()
        for run_id in made_ids:
            with_equal_shares(run_id)
        with mlflow.start_run(run_name="plain", experiment_id=places[0]):
            mlflow.log_metric("accuracy", 0.9)
        yield {"uri": uri, **ids}


def with_equal_shares(run_id):
    """Write another share of the host: that of a few milliseconds depends on what else the machine does."""
    client = mlflow.MlflowClient()
    name = f"{contributions.PREFIX}run"
    record = json.loads(client.get_run(run_id).data.tags[name])
    for rule in ("process", "reserved"):
        record["tags"][f"carbon.share.{rule}"] = "0.5"
    client.set_tag(run_id, name, json.dumps(record, separators=(",", ":")))


@pytest.fixture
def prove(store, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    mlflow.set_tracking_uri(store["uri"])

    def prove(*arguments):
        names = (argument.format(**store) for argument in arguments)
        return CliRunner().invoke(app, ["prove", *names, "--metric", "accuracy"])

    return prove


def test_a_proven_saving_with_its_payback(prove):
    done = prove("full", "small", "--one-off", "once", "--per-day", "100")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("Proven saving: small uses ")
    for line in (
        "energy per sample",
        "Quality: accuracy is equal in all repeats",
        "Payback of once (",
    ):
        assert line in done.stdout
    assert " samples (" in done.stdout and " days" in done.stdout and "nan" not in done.stdout


def test_json_and_the_function_say_the_same(prove, store):
    done = prove("full", "small", "--one-off", "once", "--json")
    report = json.loads(done.stdout)
    found = carbon_otel.prove("full", "small", metric="accuracy", one_off=["once"], tracking_uri=store["uri"])
    assert report["verdict"] == found.verdict == "proven saving"
    assert report["ratio"]["value"] == pytest.approx(found.ratio.value)
    # 5.1 J of 10.1 J, and what the counter draws beside; 25 J for a saving of about 5 mJ each.
    assert report["ratio"]["value"] == pytest.approx(0.5, abs=0.2)
    assert report["payback"]["energy"]["value"] == pytest.approx(5000, rel=0.5)
    assert report["base"]["run_ids"] == [store[f"full{i}"] for i in range(3)]
    assert report["base"]["measured_fraction"] > 0.9


@pytest.mark.parametrize(
    ("groups", "verdict"),
    [
        (("small", "full"), "proven loss"),
        (("full", "worse"), "quality not equal"),
        (("{full0}", "{small0}"), "cannot be told apart"),
    ],
)
def test_what_is_no_proven_saving_exits_with_1(prove, groups, verdict):
    done = prove(*groups, "--json")
    assert done.exit_code == 1 and json.loads(done.stdout)["verdict"] == verdict


@pytest.mark.parametrize("base", ["model=full", "{full0},{full1}, {full2}", "full,{full1}"])
def test_groups_by_tags_ids_and_names(prove, base, store):
    done = prove(base, "model=small", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["base"]["run_ids"] == [store[f"full{i}"] for i in range(3)]


def test_runs_that_do_not_count_are_named(prove):
    done = prove("full,plain", "small")
    assert done.exit_code == 0 and "left out: run plain (" in done.stdout


@pytest.mark.parametrize("status", ["FAILED", "KILLED"])
def test_a_run_that_has_failed_saves_nothing(prove, store, status):
    """It may have ended before its work was done: 'proven saving' of a half-trained model."""
    client = mlflow.MlflowClient()
    client.set_terminated(store["small0"], status)
    try:
        done = prove("full", "small", "--json")
        assert store["small0"] not in json.loads(done.stdout)["variant"]["run_ids"]
        assert f"run small ({store['small0']}) has the status {status}" in json.loads(done.stdout)["left_out"]
    finally:
        client.set_terminated(store["small0"], "FINISHED")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("full", "none"), "there is no run with the id or the name 'none'"),
        (("full", ","), "a group of runs is empty"),
        (("full", "twice"), "in several experiments: other, tests"),
        (("full", "small", "--experiment", "other"), "in the experiment 'other'"),
        (("full", "small", "--experiment", "third"), "there is no experiment 'third'"),
        (("full", "plain"), "no run of the variant can be compared: run plain ("),
        (("full", "full"), "in both groups"),
        (("full", "once"), "name a stage in which all runs have used energy"),
        (("full", "small", "--unit", "tokens"), "a unit that inference has in all runs: samples, run"),
        (("full", "small", "--tolerance", "-1"), "the tolerance is -1"),
        (("full", "small", "--one-off", "full"), "3 runs are 'full'; a one-off cost is one run"),
        (("full", "small", "--one-off", "0"), "a one-off cost is 0 Wh"),
        (("full", "small", "--one-off", "plain"), "call carbon_otel.instrument() before it"),
        (("full", "small", "--tracking-uri", "sqlite:///none.db"), "no MLflow store at sqlite:///none.db"),
    ],
)
def test_wrong_arguments_give_advice(prove, arguments, message):
    done = prove(*arguments)
    assert done.exit_code == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_a_store_that_fails_is_no_wrong_use(prove):
    done = prove("full", "small", "--tracking-uri", "http://127.0.0.1:9")
    assert done.exit_code == 1 and "Traceback" not in done.stderr
    assert "the MLflow store http://127.0.0.1:9 does not answer: Connection refused\n" in done.stderr


def test_one_experiment_tells_equal_names_apart(prove):
    assert "(base)" not in prove("full", "twice", "--experiment", "tests").stdout


def test_a_metric_that_no_run_has(store, prove):
    done = CliRunner().invoke(app, ["prove", "full", "small", "--metric", "f1"])
    assert done.exit_code == 2 and "has no metric 'f1'" in done.stderr
    with pytest.raises(LookupError, match="has no metric 'f1'"):
        carbon_otel.prove("full", "small", metric="f1", tracking_uri=store["uri"])

"""Stores, outboxes and spools of earlier versions give the same sums as with them."""

from __future__ import annotations

import time

import pytest
from typer.testing import CliRunner

import carbon_otel
from carbon_otel.carbon.grid import intensity
from carbon_otel.cli import app
from tests.fakes.powercap import server
from tests.fixtures.load import ADDRESS_0, outbox_0, spool_1, store_0, store_1, sums

mlflow = pytest.importorskip("mlflow")

SUMS, SUMS_1 = sums("store_0"), sums("store_1")
# Grams per kilowatt-hour in the table of that version, which had another edition for each year.
PL_2022_OF_VERSION_0 = 633.228


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return store_0(tmp_path_factory.mktemp("stored"))


def test_advice_on_an_old_store(stored):
    client = mlflow.MlflowClient(stored)
    measured = 0
    for experiment in client.search_experiments():
        try:
            total = carbon_otel.report(experiment.name, tracking_uri=stored).total
        except LookupError:
            continue
        measured += 1
        advised = carbon_otel.advise(experiment.name, tracking_uri=stored)
        assert advised.total == total
        assert all(each.saved.energy_wh <= total.energy_wh for each in advised.measured)
        assert "embodied carbon" in {each.name for each in advised.lacking}, "that version had none"
    assert measured


@pytest.fixture(scope="module")
def sent(tmp_path_factory):
    """The store after the batches of its outbox were sent."""
    folder = tmp_path_factory.mktemp("sent")
    uri = store_0(folder)
    outbox = outbox_0(folder / "state")
    done = CliRunner().invoke(
        app,
        ["mlflow", "sync", "--tracking-uri", uri, "--waiting-for", ADDRESS_0],
        env={"CARBON_OTEL_STATE_DIR": str(folder / "state")},
    )
    assert done.exit_code == 0, done.output
    assert not outbox.exists()
    return uri


def near(value):
    return pytest.approx(value, rel=1e-9, abs=1e-15)


def assert_same_sums(report, then):
    now = report.as_dict()
    for figure in ("energy_wh", "energy_low_wh", "energy_high_wh", "measured_fraction"):
        assert now[figure] == near(then[figure]), figure
    for figure in ("emissions_g", "emissions_low_g", "emissions_high_g"):
        assert now[figure] == near(then[figure]), figure
    for table in ("by_stage", "by_month", "per_1000"):
        assert now[table] == {name: near(figures) for name, figures in then[table].items()}, table
    attempts = {(a["name"], a["status"], a["entries"]): near(a["energy_wh"]) for a in then["attempts"]}
    assert {(a["name"], a["status"], a["entries"]): a["energy_wh"] for a in now["attempts"]} == attempts
    by_day = {each["day"]: near(each["inference_wh"]) for each in then["amortisation"]}
    assert {each["day"]: each["inference_wh"] for each in now["amortisation"]} == by_day
    # Ledger runs from the outbox have other ids, but the same energies.
    energies = sorted(row["energy_wh"] for row in then["entries"])
    assert sorted(row["energy_wh"] for row in now["entries"]) == near(energies)
    assert sorted(now["unmeasured"]) == sorted(then["unmeasured"])
    for names in ("lower_bounds", "prepared_elsewhere"):
        assert len(now[names]) == len(then[names]), names
    assert now["passed_training"] == then["passed_training"]


def assert_no_embodied(report):
    now = report.as_dict()
    # These runs have no embodied carbon: it is unknown, and not 0.
    assert now["embodied_g"] is None and now["sci_g_per_1000"] == {}
    assert len(now["embodied_unknown"]) == len(report.entries)
    assert {row["embodied_g"] for row in now["entries"]} == {None}
    assert not {"market_g", "water_l"} & now.keys()


def in_proportion(then, factor):
    """The sums with all emissions, those of tables included, times a factor."""
    if isinstance(then, dict):
        return {
            name: value * factor if name.startswith("emissions") else in_proportion(value, factor)
            for name, value in then.items()
        }
    return [in_proportion(each, factor) for each in then] if isinstance(then, list) else then


@pytest.mark.parametrize("name", SUMS["stored"])
def test_a_stored_ledger(stored, name):
    report = carbon_otel.report(name, tracking_uri=stored)
    assert_same_sums(report, SUMS["stored"][name])
    assert_no_embodied(report)


def test_a_table_of_a_stored_ledger_says_that_the_embodied_carbon_is_unknown(stored):
    shown = CliRunner().invoke(app, ["report", "churn", "--tracking-uri", stored])
    assert shown.exit_code == 0, shown.output
    assert "embodied   unknown" in shown.output and "SCI" not in shown.output


def test_a_stored_ledger_with_the_grid_of_another_year(stored):
    """The sums of that version, at the intensity of the present edition: emissions are in proportion to it."""
    report = carbon_otel.report("churn", tracking_uri=stored, zone="PL", year=2022)
    then = SUMS["stored, PL 2022"]["churn"]
    assert_same_sums(report, in_proportion(then, intensity("PL", 2022).g_per_kwh / PL_2022_OF_VERSION_0))


@pytest.mark.parametrize("name", SUMS["outbox sent"])
def test_an_outbox_of_a_killed_process(sent, name):
    assert_same_sums(carbon_otel.report(name, tracking_uri=sent), SUMS["outbox sent"][name])


@pytest.fixture(scope="module")
def stored_1(tmp_path_factory):
    return store_1(tmp_path_factory.mktemp("stored_1"))


@pytest.mark.parametrize("name", SUMS_1["stored"])
def test_a_ledger_with_all_metrics_in_one_group(stored_1, name):
    report, then = carbon_otel.report(name, tracking_uri=stored_1), SUMS_1["stored"][name]
    assert_same_sums(report, then)
    for figure in ("embodied_g", "embodied_low_g", "embodied_high_g"):
        assert report.as_dict()[figure] == near(then[figure]), figure
    assert report.as_dict()["sci_g_per_1000"] == near(then["sci_g_per_1000"])
    assert {entry.tags["carbon.version"] for entry in report.entries} == {"0.2.0"}


def test_runs_of_an_earlier_version_are_compared(stored_1):
    done = CliRunner().invoke(app, ["compare", "--experiment", "churn", "--tracking-uri", stored_1])
    assert done.exit_code == 0, done.output
    assert "attempt 0" in done.output and "energy than" in done.output


def test_a_spool_of_a_killed_process(tmp_path):
    """The first half of its run is in the store under the names of that version; this one sends the rest."""
    uri = store_1(tmp_path)
    spool = spool_1(tmp_path / "state")
    for _ in range(2):  # a repetition changes nothing
        done = CliRunner().invoke(
            app,
            ["mlflow", "sync", "--tracking-uri", uri, "--waiting-for", ADDRESS_0],
            env={"CARBON_OTEL_STATE_DIR": str(tmp_path / "state")},
        )
        assert done.exit_code == 0, done.output
        assert not spool.exists()
        assert_same_sums(carbon_otel.report("churn", tracking_uri=uri), SUMS_1["spool sent"]["churn"])
        spool_1(tmp_path / "state")


def test_a_run_of_an_earlier_version_goes_on_in_this_one(tmp_path, monkeypatch):
    uri = store_1(tmp_path)
    run = next(run for run in mlflow.MlflowClient(uri).search_runs(["1"]) if run.info.run_name == "shared")
    before = carbon_otel.report(run.info.run_id, tracking_uri=uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    tree = server(tmp_path / "sys")
    carbon_otel.instrument(
        zone="FR", pue=1.5, powercap_root=tree.root, interval_s=0.05, state_dir=tmp_path / "state"
    )
    try:
        with mlflow.start_run(run_id=run.info.run_id), carbon_otel.stage("training"):
            for _ in range(50):
                time.sleep(0.02)
                tree.package[0].add(1)
        carbon_otel.flush(30)
    finally:
        carbon_otel.uninstrument()
    after = carbon_otel.report(run.info.run_id, tracking_uri=uri)
    assert after.total.energy_wh > before.total.energy_wh + 10 / 3600
    stages = {"data_processing", "training", "evaluation", "inference"} & before.by_stage.keys()
    assert all(after.by_stage[kind].energy_wh >= before.by_stage[kind].energy_wh for kind in stages)
    metrics = mlflow.MlflowClient(uri).get_run(run.info.run_id).data.metrics
    assert metrics["carbon/energy_wh"] == near(after.total.energy_wh)

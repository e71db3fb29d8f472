"""A store and an outbox of an earlier version give the same sums as with that version."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

import carbon_otel
from carbon_otel.carbon.grid import intensity
from carbon_otel.cli import app
from tests.fixtures.load import ADDRESS_0, outbox_0, store_0, sums_0

mlflow = pytest.importorskip("mlflow")

SUMS = sums_0()
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
    # These runs have no embodied carbon: it is unknown, and not 0.
    assert now["embodied_g"] is None and now["sci_g_per_1000"] == {}
    assert len(now["embodied_unknown"]) == len(report.entries)
    assert {row["embodied_g"] for row in now["entries"]} == {None}
    assert not {"market_g", "water_l"} & now.keys()


def in_proportion(sums, factor):
    """The sums with all emissions, those of tables included, times a factor."""
    if isinstance(sums, dict):
        return {
            name: value * factor if name.startswith("emissions") else in_proportion(value, factor)
            for name, value in sums.items()
        }
    return [in_proportion(each, factor) for each in sums] if isinstance(sums, list) else sums


@pytest.mark.parametrize("name", SUMS["stored"])
def test_a_stored_ledger(stored, name):
    assert_same_sums(carbon_otel.report(name, tracking_uri=stored), SUMS["stored"][name])


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

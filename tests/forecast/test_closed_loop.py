"""The forecast and what was measured, in the same MLflow run; finished runs that teach the next forecast."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import carbon_otel
from carbon_otel.forecast import history
from carbon_otel.forecast.history import History, taught
from carbon_otel.forecast.records import Forecast, Influence, Interval, Phase
from carbon_otel.mlflow.schema import contributions
from tests.fakes.drawing import Drawing
from tests.fakes.powercap import server
from tests.integration.stores import tracking

mlflow = pytest.importorskip("mlflow")
datasets = pytest.importorskip("sklearn.datasets")
RandomForestClassifier = pytest.importorskip("sklearn.ensemble").RandomForestClassifier

X, Y = datasets.make_classification(400, random_state=0)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    with tracking(f"sqlite:///{folder}/mlflow.db"):
        mlflow.create_experiment("forecasts", artifact_location=folder.as_uri())
        mlflow.set_experiment("forecasts")
        yield


@pytest.fixture
def host(store, tmp_path):
    with Drawing(server(tmp_path / "sys"), zones=1, watts=50) as drawing:
        carbon_otel.instrument(
            zone="FR", powercap_root=drawing.root, interval_s=0.1, checkpoint_interval_s=0.5
        )
        yield drawing
        carbon_otel.uninstrument()


def figures(data):
    """The figures of a run: its pages show a part of them."""
    return contributions.figures_and_tags(data.metrics, data.tags)[0]


def train(**settings):
    with mlflow.start_run() as run:
        forest = RandomForestClassifier(30)
        forecast = carbon_otel.forecast(forest, X, Y, **settings)
        forest.fit(X, Y)
    assert carbon_otel.flush(60)
    return forecast, mlflow.get_run(run.info.run_id).data


def test_the_run_has_forecast_measured_and_delta(host):
    forecast, data = train()
    metrics = figures(data)
    for name, kwh in forecast.it_energy_kwh.as_dict().items():
        assert metrics[f"carbon/forecast/energy_{name}_wh"] == pytest.approx(1000 * kwh)
    assert metrics["carbon/forecast/emissions_p50_g"] == pytest.approx(1000 * forecast.emissions_kg.p50)
    assert metrics["carbon/forecast/duration_p50_s"] == pytest.approx(86_400 * forecast.days.p50)
    measured = metrics["carbon/forecast/measured_wh"]
    assert measured == pytest.approx(metrics["carbon/training/energy_wh"])
    delta = metrics["carbon/forecast/energy_p50_wh"] / measured - 1
    assert metrics["carbon/forecast/delta"] == pytest.approx(delta)
    assert data.tags["carbon.forecast"] == "RandomForestClassifier, 400 rows, 30 trees"
    # The small fits are neither the training nor the run's own.
    assert metrics["carbon/forecasting/energy_wh"] > 0
    parts = [v for k, v in metrics.items() if k.endswith("/energy_wh") and k.count("/") == 2]
    assert sum(parts) == pytest.approx(metrics["carbon/energy_wh"])


def test_finished_runs_teach_the_next_forecast(host):
    before = carbon_otel.forecast(RandomForestClassifier(30), X, Y, remember=False)
    count = int(before.notes[-1].split()[2]) if before.notes else 0
    train()
    after = carbon_otel.forecast(RandomForestClassifier(60), X, Y, remember=False)
    assert after.notes[-1].startswith(f"Based on {count + 1} of your runs on this hardware")
    assert any(each.name == "measured / predicted" for each in after.assumptions)
    alone = carbon_otel.forecast(RandomForestClassifier(60), X, Y, remember=False, history=False)
    assert not alone.notes


def test_runs_on_this_machine_do_not_teach_a_forecast_for_another(host):
    with mlflow.start_run() as run:
        planned = carbon_otel.forecast("1B", tokens=1e3, hardware="H100", gpus=8)
        RandomForestClassifier(30).fit(X, Y)
    metrics = mlflow.get_run(run.info.run_id).data.metrics
    assert not [name for name in metrics if name.startswith("carbon/forecast/")]
    assert planned.notes[-1] == "held against no run: this machine has no 8 x H100-SXM5-80GB"
    elsewhere = carbon_otel.forecast("30B", tokens=1e3, hardware="H100", remember=False)
    assert not any("your runs" in note for note in elsewhere.notes)
    assert elsewhere.phases and all(each.name != "measured / predicted" for each in elsewhere.assumptions)


def test_the_run_keeps_the_forecast_without_what_others_taught(host):
    """Else its error would be corrected twice."""
    forecast, data = train()
    taught_by = next(a for a in forecast.assumptions if a.name == "measured / predicted")
    assert figures(data)["carbon/forecast/raw_p50_wh"] * taught_by.value == pytest.approx(
        1000 * forecast.it_energy_kwh.p50
    )


def test_mlflow_logs_no_small_fit(host):
    """Autologging would begin a run for each."""
    mlflow.sklearn.autolog(log_models=False, silent=True)
    try:
        before = len(mlflow.search_runs())
        carbon_otel.forecast(RandomForestClassifier(30), X, Y, remember=False)
        assert len(mlflow.search_runs()) == before
        RandomForestClassifier(3).fit(X, Y)
        assert len(mlflow.search_runs()) == before + 1  # it is on again
    finally:
        mlflow.sklearn.autolog(disable=True, silent=True)


def test_a_loop_logs_its_forecast_to_the_run(host):
    with mlflow.start_run() as run:
        for _ in carbon_otel.progress(range(60)):
            time.sleep(0.06)
    assert carbon_otel.flush(60)
    metrics = figures(mlflow.get_run(run.info.run_id).data)
    assert metrics["carbon/reforecast/done_percent"] == 100
    assert metrics["carbon/reforecast/measured_wh"] == pytest.approx(metrics["carbon/energy_wh"], rel=0.2)
    expected = metrics["carbon/reforecast/energy_p50_wh"] / metrics["carbon/reforecast/measured_wh"] - 1
    assert metrics["carbon/reforecast/delta"] == pytest.approx(expected)


def test_a_store_that_fails_costs_the_history_alone(host, monkeypatch, caplog):
    def fails(*_):
        raise ConnectionError("no route")

    monkeypatch.setattr(history, "read", fails)
    forecast = carbon_otel.forecast(RandomForestClassifier(30), X, Y, remember=False)
    assert forecast.it_energy_kwh.p50 > 0 and not forecast.notes
    assert "your runs could not be read" in caplog.text and "no route" in caplog.text


# The arithmetic of what runs teach.

ONE = Interval(0.8, 1.0, 1.25)
FORECAST = Forecast(
    kind="estimator",
    title="a forest",
    scope="node",
    energy_kwh=ONE,
    it_energy_kwh=ONE,
    emissions_kg=ONE * Interval(0.5, 1.0, 2.0),
    assumptions=(),
)


def learned(*ratios):
    return taught(FORECAST, History("a host", tuple(map(math.log, ratios))))


def test_no_run_changes_nothing():
    assert learned() is FORECAST


def test_many_runs_correct_the_median_and_narrow_the_interval():
    found = learned(*[2.0] * 20)
    assert found.it_energy_kwh.p50 == pytest.approx(2.0, rel=0.05)
    assert found.it_energy_kwh.width < FORECAST.it_energy_kwh.width
    assert found.notes == ("Based on 20 of your runs on this hardware.",)


def test_one_run_is_trusted_by_half():
    assert learned(4.0).it_energy_kwh.p50 == pytest.approx(2.0)
    assert learned(4.0).it_energy_kwh.width > FORECAST.it_energy_kwh.width


def test_runs_that_scatter_widen_the_interval():
    assert learned(0.3, 1.0, 3.0).it_energy_kwh.width > FORECAST.it_energy_kwh.width


def test_water_phases_and_influences_follow_the_runs():
    forecast = replace(
        FORECAST,
        water_l=ONE.times(5),
        phases=(
            Phase("training", ONE, FORECAST.emissions_kg, "the final run"),
            Phase("development", ONE.times(2), FORECAST.emissions_kg.times(2), "2 x"),
        ),
        influences=(Influence("seconds of the fit", 1.0),),
    )
    found = taught(forecast, History("a host", (math.log(2.0),) * 20))
    factor = found.it_energy_kwh.p50
    assert found.water_l.p50 == pytest.approx(5 * factor)
    assert found.phases[0].energy_kwh == found.energy_kwh
    assert found.phases[0].emissions_kg == found.emissions_kg
    assert found.phases[1].energy_kwh.p50 == pytest.approx(2 * factor)
    assert {each.name for each in found.influences} == {"measured / predicted", "grid"}


def test_the_uncertainty_of_the_grid_stays():
    found = learned(*[1.0] * 50)
    grid = math.log(found.emissions_kg.width) ** 2 - math.log(found.it_energy_kwh.width) ** 2
    assert math.sqrt(grid) == pytest.approx(math.log(4), rel=0.01)


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=50))
def test_any_runs_give_ordered_percentiles_between_theirs(ratios):
    found = learned(*ratios)
    assert 0 < found.it_energy_kwh.p10 < found.it_energy_kwh.p50 < found.it_energy_kwh.p90
    assert min(*ratios, 1.0) * 0.999 <= found.it_energy_kwh.p50 <= max(*ratios, 1.0) * 1.001


@given(st.floats(0.3, 3.0), st.floats(0.0, 0.3), st.integers(3, 30))
def test_runs_with_the_same_error_leave_less_of_it(bias, sd, count):
    """The corrected forecast is nearer to the next run, wherever the bias outweighs chance."""
    ratios = [bias * math.exp(sd * ((i % 3) - 1)) for i in range(count)]
    corrected = abs(math.log(bias / learned(*ratios).it_energy_kwh.p50))
    assert corrected <= abs(math.log(bias)) + sd


def test_a_report_of_measured_runs_is_filed(host):
    from typer.testing import CliRunner

    from carbon_otel.cli import app

    _, data = train()
    carbon_otel.flush()
    text = CliRunner().invoke(app, ["report", "forecasts", "--filing", "annex-xi"])
    assert text.exit_code == 0, text.output
    assert text.stdout.startswith("Known energy consumption of the model (forecasts)")
    figures = json.loads(
        CliRunner().invoke(app, ["report", "forecasts", "--filing", "sci", "--format", "json"]).stdout
    )
    assert "provider" in {each["role"] for each in figures["scores"]}
    assert data.metrics["carbon/energy_wh"] > 0

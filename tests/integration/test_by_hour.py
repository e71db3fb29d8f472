"""`reprice`, `when` and `doctor --intensity` on a measured run, with files and with servers on loopback."""

from __future__ import annotations

import json
import time
from datetime import datetime, timedelta, timezone

import pytest
from typer.testing import CliRunner

import carbon_otel
from carbon_otel.cli import app
from carbon_otel.intensity.provider import find
from carbon_otel.intensity.providers.uk import UnitedKingdom
from carbon_otel.lifecycle.by_hour import reprice, uses_of
from carbon_otel.lifecycle.entry import Entry
from carbon_otel.mlflow.schema import contributions
from tests.fakes.intensity import Answer, serving
from tests.fakes.powercap import server
from tests.integration.stored import tags
from tests.integration.stores import tracking

mlflow = pytest.importorskip("mlflow")

HOUR = timedelta(hours=1)
# The figure of the table for GB is used as the constant, so it is read, not written here.
PUE = 1.5


@pytest.fixture(scope="module")
def measured(tmp_path_factory, empty_store):
    """A store with a run of GB that has a nested run, a run without a zone, and one that was not measured."""
    folder = tmp_path_factory.mktemp("store")
    with tracking(empty_store.copy(folder)) as uri:
        tests = mlflow.create_experiment("tests", artifact_location=folder.as_uri())
        with mlflow.start_run(run_name="plain", experiment_id=tests) as plain:
            pass
        ids = {"plain": plain.info.run_id, "uri": uri}
        tree = server(folder / "sys")

        def draw():
            for _ in range(10):
                time.sleep(0.02)
                tree.package[0].add(1)

        for name, zone in (("nowhere", None), ("britain", "GB")):
            carbon_otel.instrument(zone=zone, pue=PUE, powercap_root=tree.root, interval_s=0.05)
            with mlflow.start_run(run_name=name, experiment_id=tests) as run:
                draw()
                with mlflow.start_run(run_name="nested", experiment_id=tests, nested=True):
                    draw()
                draw()
            ids[name] = run.info.run_id
            carbon_otel.uninstrument()
        yield ids


@pytest.fixture
def command(measured, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CARBON_OTEL_STATE_DIR", str(tmp_path / "state"))
    mlflow.set_tracking_uri(measured["uri"])

    def command(*arguments):
        texts = [argument.format(**measured) for argument in arguments]
        return CliRunner().invoke(app, texts, env={"COLUMNS": "120"})

    return command


def run_of(measured, name="britain"):
    return mlflow.MlflowClient(measured["uri"]).get_run(measured[name])


def write(path, g_per_kwh, signal="average,location,lifecycle,production", zone="GB"):
    """A file of forecasts by the hour, from yesterday to the day after tomorrow."""
    now = datetime.now(timezone.utc).replace(minute=0, second=0, microsecond=0)
    rows = ["start,g_per_kwh,zone,quality,kind,method,scope,basis"]
    rows += [
        f"{now + hour * HOUR:%Y-%m-%dT%H:%MZ},{g_per_kwh(hour)},{zone},forecast,{signal}"
        for hour in range(-24, 48)
    ]
    path.write_text("\n".join(rows) + "\n")


def test_the_quarters_add_up_to_the_run(measured):
    run = run_of(measured)
    entry = Entry.of(run)
    quarters = uses_of(entry)
    assert sum(use.wh for use in quarters) == pytest.approx(entry.energy_wh, rel=1e-9)
    assert entry.energy_wh < run.data.metrics["carbon/energy_wh"]  # with the nested run


def test_a_constant_intensity_changes_nothing(measured, command, tmp_path):
    entry = Entry.of(run_of(measured))
    constant = float(entry.tags["carbon.intensity_g_per_kwh"])
    write(tmp_path / "grid.csv", lambda hour: constant)
    done = command("reprice", "{britain}", "--provider", "grid.csv", "--dry-run", "--json")
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)
    # The tag of the yearly intensity has six digits.
    assert row["carbon/by_hour/emissions_g"] == pytest.approx(entry.emissions_g, rel=1e-5)
    assert row["yearly_g"] == pytest.approx(entry.emissions_g) and row["comparable"] and not row["written"]
    assert row["carbon/by_hour/priced_share"] == pytest.approx(1)
    assert row["carbon/by_hour/emissions_low_g"] < row["carbon/by_hour/emissions_g"]


@pytest.mark.parametrize(
    ("scope", "basis", "comparable"), [("direct", "production", True), ("lifecycle", "production", False)]
)
def test_the_two_figures_are_alike_if_the_run_was_priced_by_the_same_signal(
    measured, scope, basis, comparable, tmp_path
):
    run = run_of(measured)
    name = f"{contributions.PREFIX}{contributions.CREATOR}"
    run.data.tags[name] = run.data.tags[name].replace(
        "lifecycle, production", "direct, production"
    )  # as of US-CA
    assert tags(run)["carbon.intensity_signal"] == "average, location-based, direct, production"
    write(tmp_path / "grid.csv", lambda hour: 100, f"average,location,{scope},{basis}")
    assert reprice(run, find(str(tmp_path / "grid.csv"), tmp_path)).comparable is comparable


def test_a_run_that_was_cut_off_is_repriced_as_a_lower_bound(measured, command, tmp_path):
    write(tmp_path / "grid.csv", lambda hour: 100)
    assert "lower bound" not in command("reprice", "{britain}", "--provider", "grid.csv", "--dry-run").stdout
    client = mlflow.MlflowClient(measured["uri"])
    client.set_tag(measured["britain"], "carbon.status", "running")
    try:
        done = command("reprice", "{britain}", "--provider", "grid.csv", "--dry-run")
    finally:
        client.set_tag(measured["britain"], "carbon.status", "final")
    assert "lower bound: britain has not ended in order" in done.stdout


def test_the_figure_is_written_once_and_replaced_by_another(measured, command, tmp_path):
    entry, before = Entry.of(run_of(measured)), run_of(measured).data
    write(tmp_path / "grid.csv", lambda hour: 400)
    assert command("reprice", "{britain}", "--provider", "grid.csv").exit_code == 0
    data = run_of(measured).data
    grams = data.metrics["carbon/by_hour/emissions_g"]
    assert grams == pytest.approx(entry.energy_wh / 1000 * PUE * 400)
    assert data.tags["carbon.by_hour.provider"] == data.tags["carbon.by_hour.source"] == "grid.csv"
    assert data.tags["carbon.by_hour.signal"] == "average, location-based, lifecycle, production"
    assert data.tags["carbon.by_hour.zone"] == "GB" and "forecast" in data.tags["carbon.by_hour.quality"]
    assert data.metrics["carbon/emissions_g"] == before.metrics["carbon/emissions_g"]
    history = mlflow.MlflowClient(measured["uri"]).get_metric_history
    again = command("reprice", "{britain}", "--provider", "grid.csv")
    assert again.exit_code == 0 and "has this figure already" in again.stdout
    assert len(history(measured["britain"], "carbon/by_hour/emissions_g")) == 1
    write(tmp_path / "grid.csv", lambda hour: 200)  # settled values, which are lower
    time.sleep(0.002)  # a point of a later millisecond
    assert command("reprice", "{britain}", "--provider", "grid.csv").exit_code == 0
    assert run_of(measured).data.metrics["carbon/by_hour/emissions_g"] == pytest.approx(grams / 2)
    assert Entry.of(run_of(measured)) != entry  # by its tags only
    assert Entry.of(run_of(measured)).stages == entry.stages


def test_another_signal_is_said_and_marginal_values_are_refused(command, tmp_path):
    write(tmp_path / "direct.csv", lambda hour: 400, "average,location,direct,consumption")
    done = command("reprice", "{britain}", "--provider", "direct.csv", "--dry-run")
    assert "different quantities: these intensities are average, location-based, direct" in done.stdout
    write(tmp_path / "marginal.csv", lambda hour: 400, "marginal,location,direct,production")
    done = command("reprice", "{britain}", "--provider", "marginal.csv")
    assert done.exit_code == 2 and "rank hours: carbon-otel when" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["{plain}", "--provider", "grid.csv"], "was not measured"),
        (["{nowhere}", "--provider", "grid.csv"], "has no zone"),
        (["{britain}", "--provider", "grid.csv", "--zone", "FR"], "has run in GB"),
        (["{britain}", "--provider", "rte"], "rte has the zone FR"),
        (["{britain}", "--provider", "none"], "no provider 'none'"),
        (["{britain}", "--provider", "none.csv"], "cannot be read"),
        (["{britain}", "--provider", "old.csv"], "has no value of GB"),
        (["0" * 32, "--provider", "grid.csv"], "not found"),
    ],
)
def test_what_cannot_be_priced_has_a_reason_and_changes_nothing(
    measured, command, tmp_path, arguments, reason
):
    write(tmp_path / "grid.csv", lambda hour: 400)
    (tmp_path / "old.csv").write_text("start,g_per_kwh\n2020-01-01T00:00Z,100\n")
    before = run_of(measured).data.to_dictionary()
    done = command("reprice", *arguments)
    assert done.exit_code == 2 and reason in done.stderr, done.output
    assert run_of(measured).data.to_dictionary() == before


def test_a_service_that_needs_a_token_is_not_asked_without_one(command):
    done = command("reprice", "{britain}", "--provider", "electricitymaps")
    assert done.exit_code == 1 and "set ELECTRICITYMAPS_TOKEN" in done.stderr, done.output


def test_the_setting_names_the_provider(command, tmp_path, monkeypatch):
    write(tmp_path / "grid.csv", lambda hour: 400)
    done = command("reprice", "{britain}", "--dry-run")
    assert done.exit_code == 2 and "name a provider" in done.stderr
    monkeypatch.setenv("CARBON_OTEL_INTENSITY", "grid.csv")
    assert command("reprice", "{britain}", "--dry-run").exit_code == 0
    assert command("when", "{britain}").exit_code == 0


def test_a_run_without_a_zone_is_priced_in_the_zone_that_is_named(command, tmp_path):
    write(tmp_path / "grid.csv", lambda hour: 400)
    assert (
        command("reprice", "{nowhere}", "--provider", "grid.csv", "--zone", "GB", "--dry-run").exit_code == 0
    )


def test_the_best_start_of_the_next_hours(measured, command, tmp_path):
    write(tmp_path / "grid.csv", lambda hour: 100 if hour >= 6 else 400)
    done = command("when", "{britain}", "--provider", "grid.csv", "--hours", "12", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    now = datetime.now(timezone.utc).replace(minute=0, second=0, microsecond=0)
    assert datetime.fromisoformat(found["best_start"]) in (now + 6 * HOUR, now + 5 * HOUR)
    assert found["saving"] == pytest.approx(0.75) and found["worth_waiting"]
    assert found["saved_g"] == pytest.approx(found["energy_wh"] / 1000 * PUE * 300)
    table = command("when", "{britain}", "--provider", "grid.csv", "--hours", "12")
    assert "75% less than now" in table.stdout and "best" in table.stdout
    assert carbon_otel.when(measured["britain"], "grid.csv", hours=12).saving == pytest.approx(0.75)


def test_no_difference_is_said(command, tmp_path):
    write(tmp_path / "grid.csv", lambda hour: 400 - hour)  # 6 % cleaner in a day
    done = command("when", "{britain}", "--provider", "grid.csv")
    assert "no difference worth waiting for" in done.stdout and done.exit_code == 0


def test_a_forecast_that_is_too_short_is_said(command, tmp_path):
    (tmp_path / "old.csv").write_text("start,g_per_kwh\n2020-01-01T00:00Z,100\n")
    done = command("when", "{britain}", "--provider", "old.csv")
    assert done.exit_code == 2 and "does not cover a run" in done.stderr


def test_the_end_of_a_forecast_that_is_shorter_than_asked_is_said(command, tmp_path):
    write(tmp_path / "grid.csv", lambda hour: 400)  # to the day after tomorrow
    said = "the forecast ends before: no start after"
    assert said not in command("when", "{britain}", "--provider", "grid.csv", "--hours", "24").stdout
    assert said in command("when", "{britain}", "--provider", "grid.csv", "--hours", "96").stdout


@pytest.fixture
def service(monkeypatch):
    """The provider `uk`, whose server is on loopback."""

    def answer(asked):
        now = datetime.now(timezone.utc).replace(minute=0, second=0, microsecond=0)
        rows = [
            {
                "from": f"{now + number * HOUR / 2:%Y-%m-%dT%H:%MZ}",
                "to": f"{now + (number + 1) * HOUR / 2:%Y-%m-%dT%H:%MZ}",
                "intensity": {"forecast": 210, "actual": 200 if number < 2 else None, "index": "low"},
            }
            for number in range(-96, 96)
        ]
        return Answer({"data": rows})

    with serving(answer) as service:
        monkeypatch.setattr(UnitedKingdom.__init__, "__defaults__", (service.url,))
        yield service


def test_a_run_is_priced_by_a_service(command, service):
    done = command("reprice", "{britain}", "--provider", "uk", "--dry-run", "--json")
    (row,) = json.loads(done.stdout)
    assert row["carbon.by_hour.source"] == "NESO Carbon Intensity API" and not row["comparable"]
    assert row["carbon.by_hour.retrieved_at"][:10] == f"{datetime.now(timezone.utc):%Y-%m-%d}"
    assert row["carbon/by_hour/emissions_g"] > 0


def test_a_service_that_fails_leaves_the_yearly_figure(command, service):
    service.answer = lambda asked: Answer(status=500)
    done = command("reprice", "{britain}", "--provider", "uk")
    assert done.exit_code == 1 and "HTTP 500" in done.stderr and "stays as it is" in done.stderr


def test_doctor_says_whether_the_shape_is_as_expected(command, service):
    done = command("doctor", "--intensity", "uk")
    assert done.exit_code == 0, done.output
    assert "history: 192 points" in done.stdout and "written for" in done.stdout
    service.answer = lambda asked: Answer({"data": [{"from": "now", "intensity": {}}]})
    done = command("doctor", "--intensity", "uk", "--json")
    assert done.exit_code == 1 and json.loads(done.stdout)["differs"] == "`from` is str 'now', not a time"
    service.answer = lambda asked: Answer(status=503)
    done = command("doctor", "--intensity", "uk")
    assert done.exit_code == 1 and "no answer" in done.stdout and "HTTP 503" in done.stdout
    assert "written for" not in done.stdout and "differs" not in done.stdout
    assert command("doctor", "--intensity", "electricitymaps").exit_code == 2
    assert command("doctor", "--intensity", "none").exit_code == 2


def test_doctor_reads_the_zones_and_times_of_a_file(command, tmp_path):
    file = tmp_path / "grid.csv"
    hour = datetime.now(timezone.utc).replace(minute=0, second=0, microsecond=0)
    times = [hour + timedelta(hours=hours) for hours in (-1, 0, 1, 3)]
    old = ["2020-01-01T00:00Z,400,DE", "2020-01-01T01:00Z,420,DE"]
    file.write_text("\n".join(["start,g_per_kwh,zone", *(f"{at.isoformat()},50,FR" for at in times), *old]))
    both = command("doctor", "--intensity", str(file))
    assert both.exit_code == 0, both.output
    assert "DE: 2 intervals from 2020-01-01 00:00 to 2020-01-01 02:00 UTC, 400 to 420 g/kWh" in both.stdout
    assert "DE: no value now" in both.stdout and "FR: gaps: 1" in both.stdout
    one = json.loads(command("doctor", "--intensity", str(file), "--zone", "FR", "--json").stdout)
    assert [note.partition(" ")[0] for note in one["found"]] == ["FR:", "FR:", "FR:"]
    unknown = command("doctor", "--intensity", str(file), "--zone", "XX")
    assert unknown.exit_code == 2 and "has no zone 'XX', but DE, FR" in unknown.stderr

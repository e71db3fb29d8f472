"""What people see is what was measured: four jobs, on every path to a store, in every panel and rule."""

from __future__ import annotations

import re
import time

import pytest
import yaml

from tests.collector.four_jobs import ENERGY, GROUPS, PANELS, PATHS, filled, four_jobs, seconds
from tests.collector.programs import COLLECTOR
from tests.integration.processes import wait_for

RULES = [rule for group in GROUPS for rule in group["rules"]]
RECORDS = [rule["record"] for rule in RULES if "record" in rule]
ALERTS = {rule["alert"]: rule["expr"] for rule in RULES if "alert" in rule}
PER_UNIT = "Joules per unit: token, request, sample"


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    with four_jobs(tmp_path_factory.mktemp("last_mile")) as by_path:
        yield by_path


@pytest.fixture(params=PATHS)
def at(request, seen):
    return seen[request.param]


@pytest.mark.parametrize("title", PANELS)
def test_no_panel_is_empty(title, at):
    expression = filled(PANELS[title]["targets"][0]["expr"])
    found = at.curve(expression)
    assert found and all(value != "NaN" for series in found for _, value in series["values"])


@pytest.mark.parametrize(
    ("title", "figure", "unit"),
    [
        ("Energy", "joules", 3600),
        ("Energy by stage", "joules", 3600),
        ("Energy by service", "joules", 3600),
        ("Energy by method", "joules", 3600),
        ("Emissions", "grams", 1),
        ("Emissions by stage", "grams", 1),
    ],
)
def test_totals_are_the_sum_of_the_jobs(title, figure, unit, at):
    for range_s in (300, 3600, 86_400):
        shown = sum(at.shown(title, range_s=range_s).values())
        assert shown * unit == pytest.approx(at.own(figure), rel=0.01)


def test_windows_that_join_add_up_to_the_whole(at):
    """Wherever they are cut, in the middle of the long job too."""
    panel = PANELS["Energy"]["targets"][0]["expr"]
    for cut_s in range(int(at.start_s) + 5, int(at.end_s), 5):
        windows = ((cut_s, 600_000), (at.end_s, round((at.end_s - cut_s) * 1000)))
        parts = [
            at.store.value(filled(panel).replace("600s", f"{ms}ms"), end_s) or 0.0 for end_s, ms in windows
        ]
        assert sum(parts) * 3600 == pytest.approx(at.own("joules"), rel=0.01)


def test_each_service_has_its_own_energy(at):
    for name, own in at.jobs.items():
        shown = sum(at.shown("Energy", service=name).values())
        assert shown * 3600 == pytest.approx(own["joules"], rel=0.01)


@pytest.mark.parametrize(
    ("title", "figure", "per_s"),
    [("Power by stage", "joules", 1), ("Emissions, g CO2e per hour", "grams", 1 / 3600)],
)
@pytest.mark.parametrize("step_s", [60, 120])
def test_curves_integrate_to_the_same(title, figure, per_s, step_s, at):
    expression = filled(PANELS[title]["targets"][0]["expr"], interval_s=step_s)
    series = at.store.range(expression, at.start_s, at.end_s + step_s, step_s)
    drawn = sum(float(value) for each in series for _, value in each["values"]) * step_s * per_s
    assert drawn == pytest.approx(at.own(figure), rel=0.02)


def test_joules_per_unit_and_per_execution(at):
    tokens = 500 * len(at.jobs)
    (per_token,) = at.shown(PER_UNIT).values()
    assert per_token == pytest.approx(at.own("scored_j") / tokens, rel=0.01)
    (once,) = at.shown(PER_UNIT, service="short-1").values()
    assert once == pytest.approx(at.jobs["short-1"]["scored_j"] / 500, rel=0.01)
    runs = at.shown("Joules per execution of a stage", service="short-1")
    (fitted,) = [value for labels, value in runs.items() if ("carbon_otel_stage_name", "fit") in labels]
    assert fitted == pytest.approx(at.jobs["short-1"]["fitted_j"], rel=0.01)


@pytest.mark.parametrize("record", RECORDS)
def test_every_rule_has_recorded(record, at):
    found = at.curve(record)
    assert found and all(value != "NaN" for series in found for _, value in series["values"])


def test_the_rules_have_the_figures_of_the_jobs(at):
    def last(record, **labels):
        matchers = ",".join(f'{name}="{value}"' for name, value in labels.items())
        return at.store.value(f"sum(last_over_time({record}{{{matchers}}}[5m]))", at.end_s)

    assert last("carbon:stage:kwh_per_day") * 3.6e6 == pytest.approx(at.own("joules"), rel=0.01)
    assert last("carbon:measured:ratio", job="long") == pytest.approx(1)
    per_unit = last("carbon:stage:joules_per_unit", job="short-2")
    assert per_unit == pytest.approx(at.jobs["short-2"]["scored_j"] / 500, rel=0.01)
    fitted = last("carbon:stage:joules_per_execution", job="short-2", carbon_otel_stage_name="fit")
    assert fitted == pytest.approx(at.jobs["short-2"]["fitted_j"], rel=0.01)
    assert last("carbon:intensity:g_per_kwh", job="long") == pytest.approx(at.jobs["long"]["g_per_kwh"])


@pytest.mark.parametrize("path", [path for path, way in PATHS.items() if way != "pushed"])
def test_a_series_has_the_place_of_its_process_under_the_names_of_kube_state_metrics(path, seen):
    at = seen[path]
    found = at.store.query(f'last_over_time({ENERGY}{{job="long"}}[10m])', at.end_s)
    for sample in found:
        labels = sample["metric"]
        assert (labels["cluster"], labels["namespace"], labels["pod"]) == ("north", "ml", "long-0")
        assert labels["deployment_environment_name"] == "test"
        assert not labels.keys() & {"service_name", "service_instance_id", "otel_scope_name"}
    assert sum(at.shown("Energy", cluster="north", environment="test").values()) > 0
    assert not at.shown("Energy", cluster="south")


def test_the_power_of_a_device_is_counted_once(at):
    """All jobs run on one host, and each exports the power of a device of the same name."""
    drawn = at.curve("sum(carbon:device:watts)", 5)
    assert all(0 < float(value) < 60 for series in drawn for _, value in series["values"]) and drawn


def test_the_power_of_an_ended_process_is_gone_within_three_minutes():
    exporter = yaml.safe_load((COLLECTOR / "config.yaml").read_text())["exporters"]["prometheus"]
    kept = re.fullmatch(r"\$\{env:OTELCOL_METRIC_EXPIRATION:-(.*)\}", exporter["metric_expiration"])[1]
    prometheus = yaml.safe_load((COLLECTOR / "prometheus/prometheus.yml").read_text())["global"]
    late = sum(seconds(prometheus[each]) for each in ("scrape_interval", "evaluation_interval"))
    assert 60 < seconds(kept) <= 180 - late


@pytest.mark.soak
def test_the_power_of_ended_processes_is_gone(at):
    wait_for(lambda: time.time() > at.end_s + 180, 200)
    assert at.store.query("hw_power_watts and time() - timestamp(hw_power_watts) < 120") == []
    (expression,) = [rule["expr"] for rule in RULES if rule.get("record") == "carbon:device:watts"]
    assert at.store.query(expression) == []


@pytest.mark.parametrize("alert", ALERTS)
def test_no_alert_is_raised(alert, at):
    assert at.store.query(ALERTS[alert], at.end_s) == []

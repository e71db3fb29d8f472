"""What people see is what was measured: four jobs, sent to the real programs, in every panel and rule.

The jobs go through the collector, which Prometheus scrapes, and from there to VictoriaMetrics; and by OTLP
straight into another Prometheus. All have their shipped settings; the longer job alone has one of its own.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from tests.collector.programs import COLLECTOR, RULES, collector, prometheus, victoria_metrics
from tests.integration.processes import wait_for

ENERGY = "carbon_otel_stage_energy_joules_total"
GRAMS = "carbon_otel_stage_emissions_grams_total"
PLACE = "k8s.cluster.name=north,k8s.namespace.name=ml,k8s.pod.name={0}-0,deployment.environment.name=test"
# Three jobs that end before their first export, and one that exports while it runs.
SECONDS = {"short-1": 2, "short-2": 3, "short-3": 4, "long": 18}
DASHBOARD = json.loads((COLLECTOR / "grafana/dashboards/lifecycle.json").read_text())
PANELS = {panel["title"]: panel for panel in DASHBOARD["panels"]}
RECORDS = [
    rule["record"]
    for file in RULES
    for group in yaml.safe_load(file.read_text())["groups"]
    for rule in group["rules"]
    if "record" in rule
]
PATHS = ["pulled", "pushed", "victoria"]


def job(folder: Path, name: str, **variables: str) -> subprocess.Popen[str]:
    folder.mkdir()
    return subprocess.Popen(
        [
            sys.executable,
            Path(__file__).with_name("measured_job.py"),
            str(folder / "sys"),
            str(SECONDS[name]),
        ],
        env={
            **os.environ,
            "OTEL_SERVICE_NAME": name,
            "OTEL_RESOURCE_ATTRIBUTES": PLACE.format(name),
            **({"OTEL_METRIC_EXPORT_INTERVAL": "4000"} if name == "long" else {}),
            **variables,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """By path: the store, and the jobs' own footprints."""
    folder = tmp_path_factory.mktemp("last_mile")
    with (
        victoria_metrics(folder, "-search.latencyOffset=0s") as victoria,
        collector(folder) as otelcol,
        prometheus(folder, otelcol.scraped, remote_write=victoria.remote_write) as pulled,
        prometheus(folder, otlp=True) as pushed,
    ):
        start_s = time.time()
        ways = {
            "pulled": {"OTEL_EXPORTER_OTLP_ENDPOINT": otelcol.http},
            "pushed": {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": pushed.otlp},
        }
        jobs = {
            way: {name: job(folder / f"{way}-{name}", name, **variables) for name in SECONDS}
            for way, variables in ways.items()
        }
        try:
            footprints = {way: {name: finish(each) for name, each in of.items()} for way, of in jobs.items()}
        finally:
            for each in (each for of in jobs.values() for each in of.values()):
                each.kill()
                each.communicate()
        whole = {
            way: pytest.approx(sum(each["joules"] for each in of.values()), rel=0.005)
            for way, of in footprints.items()
        }
        for store, way in ((pulled, "pulled"), (pushed, "pushed")):
            wait_for(lambda s=store, way=way: s.value(f"sum(last_over_time({ENERGY}[10m]))") == whole[way])
        # The rules look 30 s back each minute.
        arrived_s = time.time()
        for store in (pulled, pushed):
            wait_for(
                lambda s=store: (s.value("max(timestamp(carbon:stage:watts))") or 0) > arrived_s + 30, 240
            )
        recorded = pulled.query("max(timestamp(carbon:stage:watts))")[0]["value"][1]
        wait_for(lambda: victoria.query(f"max(timestamp(carbon:stage:watts)) >= {float(recorded):.0f}"))
        end_s = time.time()
        yield {
            name: SimpleNamespace(store=store, jobs=footprints[way], start_s=start_s, end_s=end_s)
            for name, store, way in (
                ("pulled", pulled, "pulled"),
                ("pushed", pushed, "pushed"),
                ("victoria", victoria, "pulled"),
            )
        }


def finish(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return json.loads(out)


def filled(expression, range_s=600, interval_s=60, **chosen):
    """A query as Grafana sends it."""
    for name in ("service", "cluster", "environment"):
        expression = expression.replace(f"${name}", chosen.get(name, ".*"))
    expression = expression.replace("$__range", f"{range_s}s").replace(
        "$__interval_ms", str(interval_s * 1000)
    )
    return expression.replace("$__interval", f"{interval_s}s")


def stat(at, title, **chosen):
    """The samples of a panel that shows one figure for each series, by the labels of the legend."""
    found = at.store.query(filled(PANELS[title]["targets"][0]["expr"], **chosen), at.end_s)
    return {tuple(sorted(sample["metric"].items())): float(sample["value"][1]) for sample in found}


def total(at, figure):
    return sum(each[figure] for each in at.jobs.values())


@pytest.fixture(params=PATHS)
def at(request, seen):
    return seen[request.param]


@pytest.mark.parametrize("title", PANELS)
def test_no_panel_is_empty(title, at):
    expression = filled(PANELS[title]["targets"][0]["expr"])
    found = at.store.range(expression, at.start_s, at.end_s + 15, 15)
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
        shown = sum(stat(at, title, range_s=range_s).values())
        assert shown * unit == pytest.approx(total(at, figure), rel=0.01)


def test_windows_that_join_add_up_to_the_whole(at):
    """Wherever they are cut, in the middle of the long job too."""
    panel = PANELS["Energy"]["targets"][0]["expr"]
    for cut_s in range(int(at.start_s) + 5, int(at.end_s), 5):
        windows = ((cut_s, 600_000), (at.end_s, round((at.end_s - cut_s) * 1000)))
        parts = [
            at.store.value(filled(panel).replace("600s", f"{ms}ms"), end_s) or 0.0 for end_s, ms in windows
        ]
        assert sum(parts) * 3600 == pytest.approx(total(at, "joules"), rel=0.01)


def test_each_service_has_its_own_energy(at):
    for name, own in at.jobs.items():
        shown = sum(stat(at, "Energy", service=name).values())
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
    assert drawn == pytest.approx(total(at, figure), rel=0.02)


def test_joules_per_unit_and_per_execution(at):
    tokens = 500 * len(at.jobs)
    (per_token,) = stat(at, "Joules per unit: token, request, sample").values()
    assert per_token == pytest.approx(total(at, "scored_j") / tokens, rel=0.01)
    (once,) = stat(at, "Joules per unit: token, request, sample", service="short-1").values()
    assert once == pytest.approx(at.jobs["short-1"]["scored_j"] / 500, rel=0.01)
    runs = stat(at, "Joules per execution of a stage", service="short-1")
    (fitted,) = [value for labels, value in runs.items() if ("carbon_otel_stage_name", "fit") in labels]
    assert fitted == pytest.approx(at.jobs["short-1"]["fitted_j"], rel=0.01)


@pytest.mark.parametrize("record", RECORDS)
def test_every_rule_has_recorded(record, at):
    found = at.store.range(record, at.start_s, at.end_s + 15, 15)
    assert found and all(value != "NaN" for series in found for _, value in series["values"])


def test_the_rules_have_the_figures_of_the_jobs(at):
    def last(record, **labels):
        matchers = ",".join(f'{name}="{value}"' for name, value in labels.items())
        return at.store.value(f"sum(last_over_time({record}{{{matchers}}}[5m]))", at.end_s)

    assert last("carbon:stage:kwh_per_day") * 3.6e6 == pytest.approx(total(at, "joules"), rel=0.01)
    assert last("carbon:measured:ratio", job="long") == pytest.approx(1)
    per_unit = last("carbon:stage:joules_per_unit", job="short-2")
    assert per_unit == pytest.approx(at.jobs["short-2"]["scored_j"] / 500, rel=0.01)
    fitted = last("carbon:stage:joules_per_execution", job="short-2", carbon_otel_stage_name="fit")
    assert fitted == pytest.approx(at.jobs["short-2"]["fitted_j"], rel=0.01)
    assert last("carbon:intensity:g_per_kwh", job="long") == pytest.approx(at.jobs["long"]["g_per_kwh"])


@pytest.mark.parametrize("path", ["pulled", "victoria"])
def test_a_series_has_the_place_of_its_process_under_the_names_of_kube_state_metrics(path, seen):
    at = seen[path]
    found = at.store.query(f'last_over_time({ENERGY}{{job="long"}}[10m])', at.end_s)
    for sample in found:
        labels = sample["metric"]
        assert (labels["cluster"], labels["namespace"], labels["pod"]) == ("north", "ml", "long-0")
        assert labels["deployment_environment_name"] == "test"
        assert not labels.keys() & {"service_name", "service_instance_id", "otel_scope_name"}
    assert sum(stat(at, "Energy", cluster="north", environment="test").values()) > 0
    assert not stat(at, "Energy", cluster="south")


def test_the_power_of_a_device_is_counted_once(at):
    """All jobs run on one host, and each exports the power of a device of the same name."""
    drawn = at.store.range("sum(carbon:device:watts)", at.start_s, at.end_s, 5)
    assert all(0 < float(value) < 60 for series in drawn for _, value in series["values"]) and drawn


def seconds(text):
    number, unit = re.fullmatch(r"(\d+)([sm])", text).groups()
    return int(number) * {"s": 1, "m": 60}[unit]


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
    assert at.store.query("carbon:device:watts") == []


def test_no_alert_is_raised(seen):
    assert seen["pulled"].store.query("ALERTS") == []

"""The rules, by promtool; and the names that the rules know, as every translator makes them."""

from __future__ import annotations

import dataclasses
import re
import subprocess

import pytest
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from prometheus_client import REGISTRY, generate_latest

import carbon_otel
from carbon_otel import runtime
from carbon_otel.otel.instruments import instruments_of
from carbon_otel.records import Snapshot
from tests.collector.programs import COLLECTOR, RULES, collector, located, prometheus
from tests.fakes.powercap import server
from tests.integration.processes import wait_for

# All that carbon_otel makes, by every translator. The rules and the dashboard use no other names.
NAMES = {
    "carbon_otel_carbon_intensity_grams_per_kW_h",
    "carbon_otel_embodied_grams_total",
    "carbon_otel_stage_duration_seconds_bucket",
    "carbon_otel_stage_duration_seconds_count",
    "carbon_otel_stage_duration_seconds_sum",
    "carbon_otel_stage_emissions_grams_total",
    "carbon_otel_stage_energy_joules_total",
    "carbon_otel_stage_units_total",
    "hw_energy_joules_total",
    "hw_host_energy_joules_total",
    "hw_host_power_watts",
    "hw_power_watts",
}
# The exporter for Python has no word for the unit `1`.
STEAL = {
    "the collector's exporter": "carbon_otel_cpu_steal_ratio",
    "OpenTelemetry's exporter for Python": "carbon_otel_cpu_steal",
    "Prometheus's OTLP receiver": "carbon_otel_cpu_steal_ratio",
}


def promtool(*arguments):
    done = subprocess.run(
        [located("promtool"), *map(str, arguments)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_configuration_and_the_rules_are_sound():
    promtool("check", "config", COLLECTOR / "prometheus" / "prometheus.yml")
    promtool("check", "rules", *RULES)


def test_the_rules_give_the_expected_values_for_known_counters():
    promtool("test", "rules", COLLECTOR / "prometheus" / "tests" / "rules.yml")


@pytest.fixture(scope="module")
def translated(tmp_path_factory):
    """The names that three translators make of one process that has all metrics."""
    folder = tmp_path_factory.mktemp("names")
    with collector(folder) as otelcol, prometheus(folder, otlp=True) as pushed:
        readers = [
            PeriodicExportingMetricReader(OTLPMetricExporter(endpoint))
            for endpoint in (f"{otelcol.http}/v1/metrics", pushed.otlp)
        ]
        python = PrometheusMetricReader()
        provider = MeterProvider([python, *readers], shutdown_on_exit=False)
        carbon_otel.instrument(
            zone="FR", powercap_root=server(folder / "sys").root, interval_s=30, meter_provider=provider
        )
        with carbon_otel.stage("inference", "chat") as stage:
            stage.units(tokens=10)
        made = instruments_of(provider)
        made.stage_energy.add(1, {"carbon_otel.stage.kind": "inference"})
        made.emissions.add(1, {"carbon_otel.stage.kind": "inference"})
        # A whole-host meter beside the devices, and a host that steals.
        package = runtime.active().engine.devices[0]
        host = dataclasses.replace(package, id="bmc", type="host")
        made.source.snapshot = Snapshot(((host, 2.0, 1.0), (package, 2.0, 1.0)))
        made.source.steal = lambda: 0.25
        made.source.embodied_g = 1.0
        assert provider.force_flush()
        page = wait_for(otelcol.page)
        own = generate_latest(REGISTRY).decode()
        carbon_otel.uninstrument()
        provider.shutdown()
        yield {
            "the collector's exporter": names(page),
            "OpenTelemetry's exporter for Python": names(own),
            "Prometheus's OTLP receiver": {
                sample["metric"]["__name__"] for sample in pushed.query('{__name__=~"hw_.*|carbon_otel_.*"}')
            },
        }


def names(page):
    found = re.findall(r"^([a-zA-Z_:]+)(?:{| )", page, re.MULTILINE)
    return {name for name in found if name.startswith(("hw_", "carbon_otel_"))}


@pytest.mark.parametrize("translator", STEAL)
def test_every_translator_makes_the_same_names(translator, translated):
    assert translated[translator] == NAMES | {STEAL[translator]}


def test_rules_and_dashboard_use_only_these_names():
    text = "".join(file.read_text() for file in RULES)
    text += (COLLECTOR / "grafana" / "dashboards" / "lifecycle.json").read_text()
    used = set(
        re.findall(r"\b(?:hw_(?:host_)?(?:power|energy)|carbon_otel_(?:stage_[a-z]+|carbon|cpu))_\w+", text)
    )
    assert used - {"carbon_otel_stage_kind", "carbon_otel_stage_name"} <= NAMES
    assert len(used) > 5

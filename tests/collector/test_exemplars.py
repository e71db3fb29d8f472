"""The dots of the dashboard: from the energy of a stage in Prometheus to its span in Jaeger, on every path."""

from __future__ import annotations

import contextlib
import json
import re
import time

import pytest
import yaml

from tests.collector.programs import COLLECTOR, collector, jaeger, prometheus
from tests.collector.test_deployments import run_job
from tests.collector.test_gateway import GATEWAY, folder_of
from tests.integration.processes import wait_for

DASHBOARD = json.loads((COLLECTOR / "grafana/dashboards/lifecycle.json").read_text())
DOTS = [
    target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"] if "exemplar" in target
]
SOURCE = yaml.safe_load((COLLECTOR / "grafana/provisioning/datasources/prometheus.yaml").read_text())
(LINK,) = SOURCE["datasources"][0]["jsonData"]["exemplarTraceIdDestinations"]
STAGES = {"load", "fit", "score"}
COUNTERS = ("energy_joules", "emissions_grams")


@pytest.fixture(params=["pulled", "pulled, of deltas", "pushed", "through a gateway"])
def figures(request, tmp_path):
    """Prometheus and Jaeger, with the figures of a job that has ended."""
    way = request.param
    flags = ["--enable-feature=exemplar-storage", "--web.enable-remote-write-receiver"]
    with contextlib.ExitStack() as running:
        traces = running.enter_context(jaeger(folder_of(tmp_path, "jaeger")))

        def start(name, *files, **settings):
            return running.enter_context(collector(folder_of(tmp_path, name), *files, **settings))

        # The compose file's.
        main = start("main", "config.yaml", "jaeger.yaml", JAEGER_ENDPOINT=traces.grpc)
        store = running.enter_context(
            prometheus(tmp_path, main.scraped, arguments=flags, otlp=True, intervals="1s")
        )
        variables = {}
        if way == "pushed":
            variables["OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"] = store.otlp
        if way == "pulled, of deltas":
            variables["OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"] = "delta"
        if way == "through a gateway":
            gateway = start(
                "gateway",
                "config.yaml",
                "gateway.yaml",
                **GATEWAY,
                REMOTE_WRITE_ENDPOINT=f"{store.url}/api/v1/write",
                JAEGER_ENDPOINT=traces.grpc,
            )
            to_gateway = {"GATEWAY_ENDPOINT": f"{gateway.address}:4317", "GATEWAY_INSECURE": "true"}
            main = start("agent", "config.yaml", "agent.yaml", **to_gateway)
        run_job(tmp_path, main, **variables)
        yield store, traces


def test_a_dot_leads_to_the_span_of_its_stage(figures):
    store, traces = figures
    start_s = time.time() - 600

    def dots(query):
        """By the name of a stage: the label by which Grafana finds the trace, and the span's."""
        return {
            series["seriesLabels"]["carbon_otel_stage_name"]: {
                (dot["labels"][LINK["name"]], dot["labels"]["span_id"]) for dot in series["exemplars"]
            }
            for series in store.exemplars(query, start_s, time.time() + 60)
        }

    asked = [re.sub(r"\$(service|cluster|environment)", ".*", query) for query in DOTS]
    assert asked
    for query in [*asked, *(f"carbon_otel_stage_{counter}_total" for counter in COUNTERS)]:
        found = wait_for(lambda query=query: (of := dots(query)).keys() >= STAGES and of)
        for stage in STAGES:
            for trace_id, span_id in found[stage]:
                span = wait_for(lambda trace_id=trace_id, span_id=span_id: traces.span(trace_id, span_id))
                assert span["operationName"] == stage
                tags = {tag["key"]: tag["value"] for tag in span["tags"]}
                assert tags["carbon_otel.energy.total_j"] > 0
                assert tags["carbon_otel.emissions.g_co2e"] > 0

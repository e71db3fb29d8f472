"""The demo's table, the MLflow runs behind it and the spans that leave by OTLP say the same."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

PROGRAM = """
import json, sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
spans = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(provider)

import importlib
demo = importlib.import_module("carbon_otel.cli.demo")
example = demo._load(demo._source())
small = tuple(
    example.Scenario(name, samples, trees, depth, 1, divisor)
    for name, samples, trees, depth, divisor in [("basic", 1000, 20, 5, 2), ("complex", 3000, 20, None, 1)]
)
run_ids = example.main(zone="FR", scenarios=small)

import mlflow
runs = [mlflow.get_run(run_id) for run_id in run_ids]
found = {
    "runs": [{"metrics": r.data.metrics, "tags": r.data.tags, "name": r.info.run_name} for r in runs],
    "spans": [{"name": s.name, **s.attributes} for s in spans.get_finished_spans()],
    "uri": mlflow.get_tracking_uri(),
}
json.dump(found, open(sys.argv[1], "w"), default=str)
"""


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "found.json"],
        cwd=folder,
        env={**os.environ, "COLUMNS": "80", "MLFLOW_DISABLE_TELEMETRY": "true"},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((folder / "found.json").read_text())


def figures(stdout, label):
    row = next(line for line in stdout.splitlines() if line.strip().startswith(label))
    return [float(text.rstrip("%")) for text in re.findall(r"[\d.e+-]+%?", row.split(label)[1])]


def test_the_table_is_what_mlflow_has(demo):
    stdout, found = demo
    metrics = [run["metrics"] for run in found["runs"]]
    assert figures(stdout, "energy, Wh") == [float(f"{m['carbon/energy_wh']:.4g}") for m in metrics]
    assert figures(stdout, "emissions, g CO2e") == [float(f"{m['carbon/emissions_g']:.4g}") for m in metrics]
    assert figures(stdout, "accuracy") == [round(m["accuracy"], 3) for m in metrics]
    assert [run["name"] for run in found["runs"]] == ["basic", "complex"]
    assert f"mlflow ui --backend-store-uri {found['uri']}" in stdout
    assert "basic: samples divided by 1, trees by 2" in stdout
    assert "method modelled.utilisation" in stdout


def test_the_stages_and_the_runs_own_time_add_up(demo):
    _, found = demo
    for run in found["runs"]:
        parts = [v for k, v in run["metrics"].items() if re.fullmatch(r"carbon/\w+/energy_wh", k)]
        assert sum(parts) == pytest.approx(run["metrics"]["carbon/energy_wh"], rel=1e-9)
        assert run["tags"]["carbon.status"] == "final"


def test_the_spans_say_the_same(demo):
    _, found = demo
    for run in found["runs"]:
        whole = next(s for s in found["spans"] if s["carbon_otel.stage.name"] == run["name"])
        assert whole["carbon_otel.energy.total_j"] / 3600 == pytest.approx(
            run["metrics"]["carbon/energy_wh"], rel=1e-12
        )
        inside = [s for s in found["spans"] if s["carbon_otel.run.id"] == whole["carbon_otel.run.id"]]
        for stage in ("data_processing", "training", "inference"):
            joules = sum(
                s["carbon_otel.energy.exclusive_j"] for s in inside if s["carbon_otel.stage.kind"] == stage
            )
            assert joules / 3600 == pytest.approx(run["metrics"][f"carbon/{stage}/energy_wh"], rel=1e-12)

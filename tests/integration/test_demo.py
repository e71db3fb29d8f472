"""The demo's table, its MLflow runs and its spans have the same figures."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import datetime, timedelta, timezone

import pytest
from typer.testing import CliRunner

from carbon_otel.advice.advisor import KINDS
from carbon_otel.cli import app
from carbon_otel.quantities import EMISSIONS, ENERGY, duration

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
example = demo.load()
small = (example.Scenario("basic", 1000, 20, 5), example.Scenario("complex", 3000, 20, None))
run_ids = demo.run(example, small, zone="FR", tracking_uri="sqlite:///the runs.db")

import mlflow
runs = [mlflow.get_run(run_id) for run_id in run_ids]
from carbon_otel.mlflow.schema import contributions, names
read = [contributions.figures_and_tags(r.data.metrics, r.data.tags) for r in runs]
found = {
    "runs": [
        {"metrics": r.data.metrics | names.rates_per_1k(f) | f, "tags": t, "name": r.info.run_name}
        for r, (f, t) in zip(runs, read)
    ],
    "ids": run_ids,
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
    return done.stdout, {**json.loads((folder / "found.json").read_text()), "folder": folder}


def figures(stdout, label, units=()):
    """The figures of a row, in joules or grams if its label ends with one of `units`."""
    pattern = rf"\s*{re.escape(label)}(?:, (\S+))?(?: CO2e)?\s\s+(\S.*)"
    unit, cells = next(filter(None, (re.fullmatch(pattern, line) for line in stdout.splitlines()))).groups()
    size = next((each.size for each in units if each.name == unit), 1.0)
    return [float(cell.replace(",", "")) * size for cell in cells.split()]


def test_the_table_has_the_figures_of_mlflow(demo):
    stdout, found = demo
    metrics = [run["metrics"] for run in found["runs"]]
    joules = [3600 * m["carbon/energy_wh"] for m in metrics]
    assert figures(stdout, "energy", ENERGY) == pytest.approx(joules, rel=0.05)
    # Two digits of what stands in one unit for both runs.
    for label, name in {
        "emissions": "carbon/emissions_g",
        "embodied": "carbon/embodied_g",
        "SCI of 1,000 predictions": "carbon/inference/sci_g_per_1k_samples",
    }.items():
        shown = figures(stdout, label, EMISSIONS)
        assert shown == pytest.approx([m[name] for m in metrics], rel=0.006), label
    assert figures(stdout, "accuracy") == [round(m["accuracy"], 3) for m in metrics]
    energy, low, high = (
        [float(cell.replace(",", "")) for cell in re.search(rf"{label}\s+(\S.*)", stdout)[1].split()]
        for label in (r"energy, \S+", "at least", "at most")
    )
    for number, m in enumerate(metrics):
        assert low[number] / energy[number] == pytest.approx(
            m["carbon/energy_low_wh"] / m["carbon/energy_wh"], rel=0.1
        )
        assert high[number] / energy[number] == pytest.approx(
            m["carbon/energy_high_wh"] / m["carbon/energy_wh"], rel=0.1
        )
    durations = re.search(r"duration\s\s+(\S.*\S)", stdout)[1]
    assert re.split(r"\s\s+", durations) == [duration(m["carbon/duration_s"]) for m in metrics]
    per_thousand = [m["carbon/emissions_g"] * 1000 / n for m, n in zip(metrics, (1000, 3000), strict=True)]
    assert figures(stdout, "per 1,000 samples", EMISSIONS) == pytest.approx(per_thousand, rel=0.006)
    assert [run["name"] for run in found["runs"]] == ["basic", "complex"]
    for m in metrics:
        # SCI by its formula: ((E x I) + M) per R.
        grams = m["carbon/inference/emissions_g"] + m["carbon/inference/embodied_g"]
        amount = m["carbon/units/inference/samples"]
        assert m["carbon/inference/sci_g_per_1k_samples"] == pytest.approx(1000 * grams / amount)


def test_the_output_names_the_scale_the_sources_and_the_address(demo):
    stdout, found = demo
    assert "complex: samples and trees divided by 4" in stdout and "basic: samples" not in stdout
    assert "unlimited" in stdout
    assert "Method: modelled.utilisation" in stdout and "Grid: FR" in stdout
    assert f"mlflow ui --backend-store-uri '{found['uri']}'" in stdout
    page = next(line for line in stdout.splitlines() if "#/compare-runs" in line)
    assert all(run_id in page for run_id in found["ids"])
    assert "?compareRunsMode=CHART" in stdout and f"/runs/{found['ids'][-1]}/system-metrics" in stdout


def test_the_stages_and_the_runs_own_time_add_up(demo):
    stdout, found = demo
    shares = [line.split("%")[:-1] for line in stdout.splitlines() if line.strip().startswith("share of")]
    assert len(shares) == 5
    for column in range(2):
        assert sum(float(row[column].split()[-1]) for row in shares) == pytest.approx(100, abs=0.21)
    for run in found["runs"]:
        parts = [v for k, v in run["metrics"].items() if re.fullmatch(r"carbon/\w+/energy_wh", k)]
        assert sum(parts) == pytest.approx(run["metrics"]["carbon/energy_wh"], rel=1e-9)
        made = [v for k, v in run["metrics"].items() if re.fullmatch(r"carbon/\w+/embodied_g", k)]
        assert sum(made) == pytest.approx(run["metrics"]["carbon/embodied_g"], rel=1e-9)
        assert run["tags"]["carbon.status"] == "final"


def commanded(*arguments):
    done = CliRunner().invoke(app, [*arguments])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_the_runs_elsewhere_and_at_another_hour(demo, tmp_path, monkeypatch):
    """The commands that the demo names last, and `reprice`, with a file in place of a service."""
    stdout, found = demo
    last = found["ids"][-1]
    for command in ("report", "where", "when"):
        assert re.search(rf"carbon-otel {command} .*--tracking-uri '{found['uri']}'", stdout)
    monkeypatch.chdir(found["folder"])
    store = ("--tracking-uri", found["uri"])
    now = datetime.now(timezone.utc).replace(minute=0, second=0, microsecond=0)
    hours = [(now + timedelta(hours=hour), 40 if hour < 8 else 10) for hour in range(-24, 48)]
    grid = tmp_path / "grid.csv"
    grid.write_text("start,g_per_kwh\n" + "".join(f"{at:%Y-%m-%dT%H:%MZ},{grams}\n" for at, grams in hours))
    by_file = ("--provider", str(grid), "--json", *store)

    report = commanded("report", "carbon_otel demo", "--format", "json", *store)
    assert report["embodied_g"] == pytest.approx(
        sum(r["metrics"]["carbon/embodied_g"] for r in found["runs"])
    )
    assert report["sci_g_per_1000"]["samples"] > 0
    where = commanded("where", "carbon_otel demo", "--clouds", "gcp", "--format", "json", *store)
    assert where["here"]["name"] == "FR" and len(where["regions"]) > 40
    assert where["energy_wh"] == pytest.approx(report["energy_wh"])
    (priced,) = commanded("reprice", last, *by_file)
    grams = found["runs"][-1]["metrics"]["carbon/energy_wh"] * 0.040
    assert priced["carbon/by_hour/emissions_g"] == pytest.approx(grams) and priced["written"]
    assert [again["written"] for again in commanded("reprice", last, *by_file)] == [False]
    when = commanded("when", last, *by_file)
    assert when["worth_waiting"] and when["saving"] == pytest.approx(0.75)


def test_advice_on_the_demo(demo, monkeypatch):
    """Three runs with other parameters on one processor: the place and the hardware are what is left to say."""
    _, found = demo
    monkeypatch.chdir(found["folder"])
    store = ("--tracking-uri", found["uri"])
    advised = commanded("advise", "carbon_otel demo", "--format", "json", *store)
    wh = sum(run["metrics"]["carbon/energy_wh"] for run in found["runs"])
    assert advised["total"]["energy_wh"] == pytest.approx(wh)
    kinds = [each["name"] for group in ("measured", "nothing_found", "lacking") for each in advised[group]]
    assert len(kinds) == len(set(kinds)) == len(KINDS)
    assert "embodied carbon" in [each["name"] for each in advised["measured"]]
    assert {"failed runs", "repeated runs"} <= {each["name"] for each in advised["nothing_found"]}
    for each in advised["measured"]:
        assert 0 <= each["saved"]["energy_wh"] <= wh and "--tracking-uri" in each["command"]
    assert {row["phase"] for row in advised["literature"]} == {"training", "inference", "both"}
    assert "power cap" not in str(advised["literature"]), "no GPU was measured"


def test_the_spans_have_the_same_figures(demo):
    _, found = demo
    for run in found["runs"]:
        run_span = next(s for s in found["spans"] if s["carbon_otel.stage.name"] == run["name"])
        assert run_span["carbon_otel.energy.total_j"] / 3600 == pytest.approx(
            run["metrics"]["carbon/energy_wh"], rel=1e-12
        )
        inside = [s for s in found["spans"] if s["carbon_otel.run.id"] == run_span["carbon_otel.run.id"]]
        for stage in ("data_processing", "forecasting", "training", "inference"):
            joules = sum(
                s["carbon_otel.energy.exclusive_j"] for s in inside if s["carbon_otel.stage.kind"] == stage
            )
            assert joules / 3600 == pytest.approx(run["metrics"][f"carbon/{stage}/energy_wh"], rel=1e-12)


@pytest.mark.parametrize("store", ["refusing", "hanging", "read-only"])
def test_a_store_that_takes_no_run_is_named_at_once_with_a_way_on(store, request, tmp_path):
    """MLflow alone tries for one to two minutes, in silence."""
    if store == "read-only":  # for root, too
        uri = "sqlite:////proc/self/runs.db"
    else:
        uri = request.getfixturevalue(store)
    done = subprocess.run(
        [sys.executable, "-m", "carbon_otel.cli", "demo", "--zone", "FR"],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "80", "MLFLOW_TRACKING_URI": uri, "MLFLOW_HTTP_REQUEST_TIMEOUT": "2"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert uri in done.stderr and "Traceback" not in done.stderr
    assert 'carbon-otel demo --tracking-uri "sqlite:///' in done.stderr

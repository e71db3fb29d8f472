"""A process has one measurement, however it begins and whatever the program calls later.

The programs are measured over a counter that grows by 50 W. Each reads it by itself around its work, so what it is
charged for that work has a lower bound that no load of the machine changes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from carbon_otel.carbon.grid import intensity
from carbon_otel.units import J_PER_KWH
from tests.fakes.drawing import Drawing
from tests.fakes.powercap import server

INSTRUMENT = str(Path(sys.executable).with_name("opentelemetry-instrument"))
CLI = [sys.executable, "-m", "carbon_otel.cli", "run"]
# An edge takes a reading that is up to 2 ms old, and the counter is written every 10 ms.
EDGE_J = 50 * 0.1

# How the measurement begins.
BEGINNINGS = {
    "in the program": [sys.executable],
    "run": [*CLI, "--", sys.executable],
    "run with a stage": [*CLI, "--stage", "whole", "--", sys.executable],
    "run with children": [*CLI, "--children", "--", sys.executable],
    "opentelemetry-instrument": [INSTRUMENT, sys.executable],
}
# What the program calls before its work, and in the middle of its training.
CALLS = {
    "nothing else": ("pass", "pass"),
    "instrument() with a zone": ("carbon_otel.instrument(zone='FR')", "pass"),
    "a cell that runs again": ("carbon_otel.instrument(zone='FR')",) * 2,
    "a cell that was edited": (
        "carbon_otel.instrument(zone='DE', pue=1.2)",
        "carbon_otel.instrument(zone='FR', pue=1)",
    ),
    "other intervals": (
        "carbon_otel.instrument(zone='FR', interval_s=0.5)",
        "carbon_otel.instrument(interval_s=0.1, checkpoint_interval_s=0.2, synchronize=False)",
    ),
    "providers": ("carbon_otel.instrument(zone='FR')", "carbon_otel.instrument(**providers())"),
    "the instrumentor": ("CarbonInstrumentor().instrument(zone='FR')", "carbon_otel.instrument(zone='FR')"),
}

PROGRAM = """
import os, time
import carbon_otel
from carbon_otel.entry_points.instrumentor import CarbonInstrumentor
from pathlib import Path

def providers():
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.trace import TracerProvider
    return {{"tracer_provider": TracerProvider(), "meter_provider": MeterProvider()}}

def joules():
    return int(Path(os.environ["COUNTER"]).read_text()) / 1e6

def work():
    before = joules()
    while joules() < before + 10:
        time.sleep(0.01)
    time.sleep(0.005)  # the reading at the end of the stage is younger than the one here

if {begins}:
    carbon_otel.instrument()
begun = joules()
with carbon_otel.stage("data_processing"):
    work()
{first}
with carbon_otel.stage("training"):
    work()
    {second}
    work()
with carbon_otel.stage("evaluation"):
    work()
print("worked", joules() - begun)
"""


@pytest.fixture
def drawing(tmp_path):
    with Drawing(server(tmp_path / "sys"), zones=1, watts=50) as drawing:
        yield drawing


def measured(drawing, tmp_path, command, program):
    """The content of the journal, and what the program has printed."""
    journal = tmp_path / "journal.json"
    (tmp_path / "program.py").write_text(program)
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "TRACEPARENT"))}
    variables = {
        "CARBON_OTEL_POWERCAP_ROOT": str(drawing.root),
        "CARBON_OTEL_JOURNAL": str(journal),
        "COUNTER": str(drawing.root / "intel-rapl:0" / "energy_uj"),
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
    }
    done = subprocess.run(
        [*command, "program.py"],
        cwd=tmp_path,
        env={**clean, **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(journal.read_text()), done


@pytest.mark.parametrize("calls", CALLS)
@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_no_stage_and_no_joule_is_lost(beginning, calls, drawing, tmp_path):
    first, second = CALLS[calls]
    program = PROGRAM.format(begins=beginning == "in the program", first=first, second=second)
    before_j = drawing.joules
    content, done = measured(drawing, tmp_path, BEGINNINGS[beginning], program)
    after_j = drawing.joules
    footprint, stages = content["footprint"], content["footprint"]["stages"]
    worked_j = float(done.stdout.split("worked")[1])
    assert content["status"] == "final"
    assert worked_j - EDGE_J <= footprint["energy_j"] <= after_j - before_j
    assert sum(cost["energy_j"] for cost in stages.values()) == pytest.approx(footprint["energy_j"])
    assert sum(cost["emissions_g"] for cost in stages.values()) == pytest.approx(footprint["emissions_g"])
    assert stages["training"]["energy_j"] >= 20 - EDGE_J
    assert min(stages[kind]["energy_j"] for kind in ("data_processing", "evaluation")) >= 10 - EDGE_J
    assert ("whole" in stages) == ("stage" in beginning)
    # The whole process is in one place: its grams are those of the zone that the program has named.
    grid = intensity(None if calls == "nothing else" else "FR")
    assert footprint["emissions_g"] == pytest.approx(footprint["energy_j"] / J_PER_KWH * grid.g_per_kwh)
    assert footprint["intensity"]["zone"] == grid.zone


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_a_measurement_that_ends_and_begins_again_goes_on_in_the_journal(beginning, drawing, tmp_path):
    again = "carbon_otel.uninstrument()\ncarbon_otel.instrument(zone='FR')"
    program = PROGRAM.format(begins=beginning == "in the program", first=again, second="pass")
    before_j = drawing.joules
    content, done = measured(drawing, tmp_path, BEGINNINGS[beginning], program)
    after_j = drawing.joules
    footprint, stages = content["footprint"], content["footprint"]["stages"]
    assert stages["data_processing"]["energy_j"] >= 10 - EDGE_J
    assert stages["training"]["energy_j"] >= 20 - EDGE_J
    assert 40 - 2 * EDGE_J <= footprint["energy_j"] <= after_j - before_j
    assert sum(cost["energy_j"] for cost in stages.values()) == pytest.approx(footprint["energy_j"])
    assert footprint["embodied_g"] > 0
    assert footprint["embodied_g"] == pytest.approx(sum(footprint["embodied_by_kind"].values()))
    # The first measurement knew no zone: what two grids have priced has no intensity.
    assert footprint["intensity"] is None
    if beginning.startswith("run"):
        assert "several grids" in done.stderr

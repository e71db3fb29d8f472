"""A forecast made before, held against the run."""

from __future__ import annotations

import logging
import time

import pytest

import carbon_otel
from carbon_otel import runtime
from carbon_otel.foresight import watch
from carbon_otel.foresight.here import Accelerators
from carbon_otel.records import Foresight
from tests.fakes.drawing import Drawing
from tests.fakes.powercap import server
from tests.forecast.measurement import Told


def foresight(joules=100.0, **fields):
    values = {
        "in_run": False,
        "expected_j": (joules / 2, joules, joules * 2),
        "raw_j": joules,
        "expected_g": (1.0, 2.0, 3.0),
        "expected_s": None,
        "title": "a model",
        "subject": "training",
    }
    return Foresight(**{**values, **fields})


def spend(measured, kind, joules):
    with carbon_otel.stage(kind):
        measured.clock.advance(joules / 100)


def test_the_run_is_compared_by_its_training_alone(measured):
    opened = measured.engine.open_run("a" * 32, "run", None)
    watch.remember(foresight(100))
    spend(measured, "data_processing", 500)
    with carbon_otel.stage("training"):
        spend(measured, "training", 30)
        spend(measured, "evaluation", 20)
    spend(measured, "training", 30)
    measured.engine.close(opened)
    kind, last = measured.told.foresights[-1]
    assert kind == "run" and last.measured_j == pytest.approx(80) and last.delta == pytest.approx(0.25)


def test_a_run_without_training_is_compared_as_a_whole(measured):
    watch.remember(foresight(100))
    opened = measured.engine.open_run("a" * 32, "run", None)
    spend(measured, "work", 200)
    measured.engine.close(opened)
    assert measured.told.foresights[-1][1].delta == pytest.approx(-0.5)


def test_the_training_that_opens_next_gets_it_where_there_is_no_run(measured):
    watch.remember(foresight(1))
    watch.remember(foresight(100))  # a newer one replaces it
    spend(measured, "data_processing", 10)
    spend(measured, "training", 50)
    spend(measured, "training", 70)
    assert [(kind, f.measured_j) for kind, f in measured.told.foresights] == [("training", pytest.approx(50))]


def test_training_in_a_nested_run_counts_for_the_outer_one(measured):
    outer = measured.engine.open_run("a" * 32, "outer", None)
    watch.remember(foresight(100))
    inner = measured.engine.open_run("b" * 32, "inner", "a" * 32)
    stage = measured.engine.open("training", "t", {}, inner)
    measured.clock.advance(0.5)
    for each in (stage, inner, outer):
        measured.engine.close(each)
    assert measured.told.foresights[-1][1].measured_j == pytest.approx(50)


def test_a_forecast_made_before_the_measurement_is_not_lost(measured, monkeypatch):
    monkeypatch.setattr(runtime, "_active", None)
    watch.remember(foresight(100))
    monkeypatch.setattr(runtime, "_active", measured)
    watch.begin()
    spend(measured, "training", 100)
    assert measured.told.foresights[-1][1].delta == pytest.approx(0)


def test_a_forecast_waits_for_its_run_beyond_the_measurement(tmp_path):
    """`uninstrument()` and `instrument()` between the forecast and the training lose nothing."""
    told = Told()
    with Drawing(server(tmp_path), zones=1, watts=50) as host:
        settings = {"zone": "FR", "powercap_root": host.root, "interval_s": 0.1}
        carbon_otel.instrument(**settings)
        watch.remember(foresight(100))
        carbon_otel.uninstrument()
        carbon_otel.instrument(**settings)
        runtime.active().engine.sinks.add(told)
        with carbon_otel.stage("training") as stage:
            time.sleep(0.3)
        carbon_otel.uninstrument()
    (compared,) = [f for _, f in told.foresights]
    assert compared.measured_j == pytest.approx(stage.footprint.energy_j)


H100 = "H100-SXM5-80GB"


@pytest.mark.parametrize(
    ("wanted", "gpus", "here"),
    [
        (Accelerators(H100, 1.0), [], False),
        (Accelerators(H100, 1.0), ["NVIDIA H100 80GB HBM3"], True),
        (Accelerators(H100, None), ["NVIDIA A100-SXM4-80GB", "NVIDIA H100 80GB HBM3"], True),
        (Accelerators(H100, 2.0), ["NVIDIA A100-SXM4-80GB", "NVIDIA H100 80GB HBM3"], False),
        (Accelerators(H100, None), ["a GPU that the catalogue lacks"], False),
    ],
)
@pytest.mark.parametrize("early", [False, True])
def test_a_forecast_for_other_hardware_is_held_against_no_run(
    measured, monkeypatch, caplog, wanted, gpus, here, early
):
    """Whether it is made in a measurement or before it; in a measurement, an earlier forecast stays."""
    measured.gpus = tuple(gpus)
    caplog.set_level(logging.INFO, "carbon_otel")
    watch.remember(foresight(50, title="this machine"))
    if early:
        monkeypatch.setattr(runtime, "_active", None)
    assert watch.remember(foresight(100, title="elsewhere"), wanted) is (here or early)
    if early:
        monkeypatch.setattr(runtime, "_active", measured)
        watch.begin()
    spend(measured, "training", 100)
    titles = [f.title for _, f in measured.told.foresights]
    assert titles == (["elsewhere"] if here else [] if early else ["this machine"])
    assert ("is compared with no run" in caplog.text) == (early and not here)


def test_nothing_is_remembered_after_the_run(measured):
    watch.remember(foresight(100))
    for _ in range(2):
        opened = measured.engine.open_run("a" * 32, "run", None)
        spend(measured, "training", 10)
        measured.engine.close(opened)
    told = [f for _, f in measured.told.foresights if f.measured_j is not None]
    assert [f.measured_j for f in told] == pytest.approx([10, 10])  # at the training's end, and at the run's

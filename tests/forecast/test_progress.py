"""Loops that forecast themselves: on a virtual clock with a device of known power, and real ones."""

from __future__ import annotations

import logging
import threading
import time

import pytest

import carbon_otel
from carbon_otel import clock as clocks
from carbon_otel import runtime
from carbon_otel.carbon.grid import EmissionFactor, Intensity
from carbon_otel.foresight import watch
from carbon_otel.foresight.here import Accelerators
from carbon_otel.meter.meter import Meter
from carbon_otel.records import Foresight
from carbon_otel.sinks import Sink
from carbon_otel.stages.engine import Engine
from tests.fakes.clock import Clock
from tests.fakes.drawing import Drawing
from tests.fakes.powercap import server
from tests.fakes.sensors import EXACT, FakeSensor
from tests.forecast.test_outlook import LOOPS, timeline

FACTOR = EmissionFactor(Intensity("X", "X", 360.0, 2024, EXACT, "test", "test"))  # 0.1 mg a joule


class Told(Sink):
    """What sinks are told of forecasts."""

    def __init__(self) -> None:
        self.foresights: list[tuple[str, Foresight]] = []

    def foreseen(self, stage, foresight):
        self.foresights.append((stage.kind, foresight))


class Measurement:
    """A measurement of one device on a virtual clock."""

    def __init__(self, monkeypatch) -> None:
        self.clock = Clock()
        self.sensor = FakeSensor(self.clock, watts=100)
        self.told = Told()
        self.engine = Engine(Meter([self.sensor], clock_ns=self.clock), FACTOR, [self.told])
        monkeypatch.setattr(runtime, "_active", self)
        monkeypatch.setattr(clocks, "monotonic", lambda: self.clock() / 1e9)

    def synchronize(self) -> None: ...


@pytest.fixture
def measured(monkeypatch):
    return Measurement(monkeypatch)


def run(measured, seconds, watts=None, **settings):
    """A loop of steps that take so long, in a stage; returns its joules."""
    with carbon_otel.stage("training") as stage:
        before = measured.sensor.spent_j
        for i in carbon_otel.progress(range(len(seconds)), **settings):
            if watts is not None:
                measured.sensor.watts = watts(i)
            measured.clock.advance(seconds[i])
        joules = measured.sensor.spent_j - before
    assert stage.footprint.energy_j == pytest.approx(joules)
    return joules


@pytest.mark.parametrize("loop", LOOPS)
def test_after_5_per_cent_of_the_steps_the_energy_is_within_5_per_cent(measured, loop):
    joules = run(measured, timeline(**{**LOOPS[loop], "base": LOOPS[loop].get("base", 0.1) * 10}))
    first = measured.told.foresights[0][1]
    print(f"{loop:45} {first.expected_j[1] / joules - 1:+.1%}")
    assert first.done == pytest.approx(0.05, abs=0.02)
    assert first.expected_j[1] == pytest.approx(joules, rel=0.05)
    assert first.expected_g[1] == pytest.approx(joules * 1e-4, rel=0.05)
    last = measured.told.foresights[-1][1]
    assert last.measured_j == pytest.approx(joules, rel=1e-6)
    assert last.delta == pytest.approx(first.expected_j[1] / joules - 1)


def test_the_power_of_a_slow_beginning_is_not_that_of_the_rest(measured):
    """The first epoch waits for a disk at 30 W, the others compute at 200 W."""
    seconds = timeline(2000, base=1.0, slow=(40, 3.0))
    joules = run(measured, seconds, watts=lambda i: 30 if i < 40 else 200)
    assert measured.told.foresights[0][1].expected_j[1] == pytest.approx(joules, rel=0.05)


def test_the_line_says_what_is_left(measured, caplog):
    with caplog.at_level(logging.INFO, "carbon_otel"):
        run(measured, [36.0] * 1000)
    lines = [r.getMessage() for r in caplog.records]
    assert lines[0].startswith("1 kWh in all, 95% left, done at ") or lines[0].startswith(
        "1000 Wh in all, 95% left"
    )
    assert len(lines) == 6


def test_a_loop_shorter_than_the_meters_interval_says_nothing(measured):
    run(measured, [0.001] * 100)
    assert measured.told.foresights == []


def test_a_budget_warns_once_and_stops_nothing(measured, caplog):
    joules = run(measured, [36.0] * 1000, budget_kwh=0.5)
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1 and warnings[0].startswith("the budget of 0.5 kWh will not suffice: 1")
    assert joules == pytest.approx(3.6e6)


def test_a_budget_that_suffices_is_silent(measured, caplog):
    run(measured, [36.0] * 1000, budget_kwh=1.1, budget_kg=0.5)
    assert not [r for r in caplog.records if r.levelno == logging.WARNING]


def test_a_budget_calls_the_users_function_and_survives_it(measured, caplog):
    seen = []

    def on_budget(outlook):
        seen.append(outlook)
        raise ZeroDivisionError

    run(measured, [36.0] * 1000, budget_kg=0.2, on_budget=on_budget)
    (outlook,) = seen
    assert outlook.emissions_kg.p50 == pytest.approx(0.36, rel=0.05) and outlook.done == pytest.approx(0.05)
    assert "calling on_budget failed: ZeroDivisionError" in caplog.text


def test_a_budget_is_watched_between_the_forecasts(measured):
    """The steps grow dearer after the last forecast."""
    seen = []
    run(
        measured,
        [36.0] * 1000,
        budget_kwh=1.2,
        on_budget=seen.append,
        watts=lambda i: 100 if i < 850 else 900,
    )
    assert len(seen) == 1 and seen[0].done > 0.85


def test_a_loop_that_is_left_early_is_not_compared(measured):
    with carbon_otel.stage("training"):
        for i in carbon_otel.progress(range(1000)):
            measured.clock.advance(1)
            if i == 500:
                break
    assert measured.told.foresights and all(f.measured_j is None for _, f in measured.told.foresights)


def test_steps_may_be_counted_by_hand(measured):
    with carbon_otel.stage("training"), carbon_otel.progress(total=1000) as loop:
        for _ in range(100):
            measured.clock.advance(10)
            loop.update(10)
    assert loop.outlook is not None and loop.outlook.energy_kwh.p50 == pytest.approx(
        1000 * 100 / 3.6e6, rel=0.01
    )
    assert measured.told.foresights[-1][1].measured_j == pytest.approx(1e5)


def test_a_loop_may_be_gone_through_again(measured, caplog):
    caplog.set_level(logging.INFO, "carbon_otel")
    with carbon_otel.stage("training"):
        loop = carbon_otel.progress(range(100), budget_kwh=1e-6)
        for watts in (100, 300):
            measured.sensor.watts = watts
            for _ in loop:
                measured.clock.advance(10)
            assert loop.outlook.energy_kwh.p50 == pytest.approx(1000 * watts / 3.6e6, rel=0.02)
    assert caplog.text.count("will not suffice") == 2
    ends = [f.measured_j for _, f in measured.told.foresights if f.measured_j is not None]
    assert ends == pytest.approx([1e5, 3e5])


def test_a_loop_says_nothing_after_the_measurement_has_ended(measured, monkeypatch):
    for i in carbon_otel.progress(range(100)):
        measured.clock.advance(10)
        if i == 30:
            monkeypatch.setattr(runtime, "_active", None)
            told = len(measured.told.foresights)
    assert told and len(measured.told.foresights) == told


def test_the_run_around_the_stage_is_told_too(measured):
    opened = measured.engine.open_run("a" * 32, "run", None)
    run(measured, [1.0] * 100)
    measured.engine.close(opened)
    assert {kind for kind, _ in measured.told.foresights} == {"training", "run"}


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        ((iter([]),), {}),
        ((), {}),
        ((range(3),), {"budget_kwh": 0}),
        ((), {"total": -1}),
        ((), {"total": float("inf")}),
    ],
)
def test_wrong_arguments_are_refused(arguments, settings):
    with pytest.raises(ValueError, match=r"write|number of steps"):
        carbon_otel.progress(*arguments, **settings)


def test_an_empty_loop_and_a_loop_without_a_measurement_run(measured, monkeypatch):
    assert list(carbon_otel.progress([])) == []
    monkeypatch.setattr(runtime, "_active", None)
    assert list(carbon_otel.progress(range(300))) == list(range(300))


# Real loops. Their steps take what the machine gives them, so nothing is asserted about how good the forecast is;
# that is asserted above, on their timelines.


def forest(progress):
    ensemble = pytest.importorskip("sklearn.ensemble")
    datasets = pytest.importorskip("sklearn.datasets")
    features, target = datasets.make_classification(400, random_state=0)
    model = ensemble.RandomForestClassifier(warm_start=True, random_state=0)
    for trees in progress(range(1, 61)):
        model.set_params(n_estimators=trees)
        model.fit(features, target)
        time.sleep(0.05)


def boosting(progress):
    ensemble = pytest.importorskip("sklearn.ensemble")
    datasets = pytest.importorskip("sklearn.datasets")
    features, target = datasets.make_classification(400, random_state=0)
    loop = progress(total=60)
    model = ensemble.GradientBoostingClassifier(n_estimators=60)
    with loop:
        model.fit(features, target, monitor=lambda *_: (time.sleep(0.05), loop.update())[0] is not None)


@pytest.mark.parametrize("loop", [forest, boosting])
def test_a_real_loop_forecasts_itself(loop, tmp_path):
    """Its steps are as many as the loop has, and at the end forecast and measurement are of the same energy."""
    told = Told()
    with Drawing(server(tmp_path), zones=1, watts=50) as host:
        carbon_otel.instrument(zone="FR", powercap_root=host.root, interval_s=0.1)
        runtime.active().engine.sinks.add(told)
        with carbon_otel.stage("training") as stage:
            loop(carbon_otel.progress)
        carbon_otel.uninstrument()
    own = [f for kind, f in told.foresights if kind == "training"]
    assert all(f.in_run for f in own), "a forecast that another test left is in it"
    assert own and own[-1].done == 1 and own[-1].measured_j is not None
    assert 0 < own[-1].measured_j <= stage.footprint.energy_j * 1.001
    done = [f.done for f in own]
    assert done == sorted(done) and done[0] >= 0.05
    # What is still expected comes to what was measured: after 80 % of the steps little is left to guess.
    assert all(f.expected_j[0] <= f.expected_j[1] <= f.expected_j[2] for f in own)


def test_threads_may_have_loops_at_the_same_time(measured):
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(sum(carbon_otel.progress(range(1000)))))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [sum(range(1000))] * 4


# A forecast made before, held against the run.


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

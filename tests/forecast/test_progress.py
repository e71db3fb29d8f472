"""Loops that forecast themselves: on a virtual clock with a device of known power, and real ones."""

from __future__ import annotations

import logging
import threading
import time

import pytest

import carbon_otel
from carbon_otel import runtime
from tests.fakes.drawing import Drawing
from tests.fakes.powercap import server
from tests.forecast.measurement import Told
from tests.forecast.test_outlook import LOOPS, timeline


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
    assert lines[0].startswith("1.00 kWh in all, 95% left, done at ")
    assert len(lines) == 6


def test_a_loop_shorter_than_the_meters_interval_says_nothing(measured):
    run(measured, [0.001] * 100)
    assert measured.told.foresights == []


def test_a_budget_warns_once_and_stops_nothing(measured, caplog):
    joules = run(measured, [36.0] * 1000, budget_kwh=0.5)
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1 and warnings[0].startswith("the budget of 500 Wh will not suffice: 1")
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

"""Predictions outside of runs: one stage and one window for a model and an hour, paused while nothing is asked."""

from __future__ import annotations

import contextvars
import sys
import threading
from types import SimpleNamespace

import pytest

from carbon_otel.background import Worker
from carbon_otel.carbon.grid import EmissionFactor, intensity
from carbon_otel.meter.meter import Meter
from carbon_otel.mlflow.schema import names
from carbon_otel.mlflow.standalone.inference import InferenceLedger, Predictions
from carbon_otel.stages.engine import Engine
from tests.fakes.clock import Clock
from tests.fakes.sensors import package
from tests.unit.test_standalone_stages import Uploads


class Bench:
    def __init__(self):
        self.clock = Clock()
        self.engine = Engine(
            Meter([package(self.clock, watts=100)], clock_ns=self.clock),
            EmissionFactor(intensity("FR")),
            checkpoint_s=15,
        )
        self.uploads = Uploads()
        self.delivery = Worker("test delivery")
        ledger = InferenceLedger(
            self.uploads,
            self.delivery,
            lambda f, status, trace_id: {"carbon.status": status},
            lambda: self.clock() / 1e9,
        )
        self.predictions = Predictions(
            self.engine, ledger, process="p", clock=lambda: self.clock() / 1e9, wall_ns=self.clock
        )
        self.engine.before_tick.append(self.predictions.before_tick)
        self.engine.sinks.add(ledger)

    def predict(self, model, seconds=0.0, rows=1):
        window, token = self.predictions.predicting(model, None)
        self.clock.advance(seconds)
        self.predictions.predicted(window, token, rows)

    def tick(self, seconds=1.0):
        self.clock.advance(seconds)
        self.engine.tick()

    def states(self):
        """The last state of each window: values and tags."""
        assert self.delivery.submit(lambda: None).wait(20)
        last = {batch.ordering_key: batch for batch in self.uploads.batches}
        return [names.unpack(batch.values, batch.tags) for batch in last.values()]


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////a.db")
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(is_tracking_uri_set=lambda: True))
    bench = Bench()
    yield bench
    bench.delivery.close()


def test_a_model_pays_until_a_tick_finds_no_prediction(bench):
    bench.predict("m", seconds=1)
    bench.tick()  # it was asked since the last tick
    bench.tick()  # it was not
    for _ in range(20):
        bench.tick()
    bench.engine.close_windows()
    ((values, tags),) = bench.states()
    assert values["carbon/inference/energy_wh"] * 3600 == pytest.approx(3 * 100)
    assert tags["carbon.status"] == "final" and tags["carbon.model_id"] == "m"
    assert values["carbon/units/inference/requests"] == values["carbon/units/inference/rows"] == 1


def test_two_models_have_a_window_each(bench):
    for _ in range(3):
        bench.predict("a", rows=2)
        bench.predict("b", rows=5)
    bench.engine.close_windows()
    rows = {tags["carbon.model_id"]: values["carbon/units/inference/rows"] for values, tags in bench.states()}
    assert rows == {"a": 6, "b": 15}


def test_within_a_stage_of_the_application_they_belong_to_that_stage(bench):
    run = bench.engine.open_run("r", "r", None)
    assert bench.predictions.predicting("m", None) is None
    bench.engine.close(run)
    assert bench.uploads.batches == []


def test_another_hour_is_another_window_and_the_sums_are_the_counters(bench):
    for _ in range(3):
        bench.predict("m", seconds=60)
        bench.tick()
        bench.tick(3600)
        bench.tick()
    bench.engine.close_windows()
    states = bench.states()
    assert len(states) == 3
    assert sum(values["carbon/units/inference/requests"] for values, _ in states) == 3
    assert {tags["carbon.status"] for _, tags in states} == {"final"}
    paid = bench.engine.so_far().record.by_kind["inference"].energy_j
    assert sum(values["carbon/energy_wh"] for values, _ in states) * 3600 == pytest.approx(paid)


def test_a_prediction_after_the_farewell_opens_a_window_again(bench):
    bench.predict("m", seconds=1)
    bench.engine.close_windows()
    bench.predict("m", seconds=1)
    bench.engine.close_windows()
    assert [values["carbon/units/inference/requests"] for values, _ in bench.states()] == [1, 1]


def test_two_ticks_at_once_end_a_window_once(bench, caplog):
    """A flush ticks on the user's thread while the sampler does."""
    for _ in range(20):
        bench.predict("m")
        bench.clock.advance(3601)
        ready = threading.Barrier(2)

        def tick(ready=ready):
            ready.wait()
            bench.engine.tick()

        threads = [threading.Thread(target=tick) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert caplog.records == []
    assert len(bench.states()) == 20


def test_a_prediction_that_ends_in_another_context_is_over(bench):
    window, token = contextvars.copy_context().run(bench.predictions.predicting, "m-1", None)
    contextvars.Context().run(bench.predictions.predicted, window, token, 1)
    assert window.in_flight == 0
    bench.tick()
    bench.tick()
    assert window.paused


def test_a_prediction_that_a_signal_handler_makes_during_another_one(bench):
    """The thread does not wait for its own lock."""
    handler = iter([lambda: bench.predict("m-2")])

    def clock() -> float:
        next(handler, lambda: None)()
        return bench.clock() / 1e9

    bench.predictions._clock = clock
    thread = threading.Thread(target=bench.predict, args=("m-1",), daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    assert sorted(model for model, *_ in bench.predictions._windows) == ["m-1", "m-2"]


def test_a_prediction_goes_to_the_tracking_uri_of_its_moment(bench, monkeypatch):
    for number in range(1, 4):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:////{'ab'[number % 2]}.db")
        bench.predict("m", seconds=1, rows=number)
        bench.tick()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////c.db")
    bench.engine.close_windows()
    bench.states()
    rows = {
        uri: names.unpack(batch.values, batch.tags)[0]["carbon/units/inference/rows"]
        for uri, batch in zip(bench.uploads.uris, bench.uploads.batches, strict=True)
    }
    assert rows == {"sqlite:////b.db": 4, "sqlite:////a.db": 2}

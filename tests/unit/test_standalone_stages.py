"""Stages outside of runs: each joule in one window, whichever stage paid it."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace

import pytest

from carbon_otel.background import Worker
from carbon_otel.carbon.grid import EmissionFactor, intensity
from carbon_otel.meter.meter import Meter
from carbon_otel.mlflow.schema import names
from carbon_otel.mlflow.standalone.stages import StandaloneStages
from carbon_otel.stages.engine import Engine
from carbon_otel.stages.open_stage import current
from tests.fakes.clock import Clock
from tests.fakes.sensors import gpu, package


class Uploads:
    """The batches of the delivery thread, in place of the uploader."""

    def __init__(self):
        self.batches = []
        self.uris = []

    def begin(self):
        """No thread is needed."""

    def put(self, batch, store):
        self.batches.append(batch)
        self.uris.append(store)


class Bench:
    def __init__(self):
        self.clock = Clock()
        self.devices = package(self.clock, watts=50), gpu(self.clock, watts=200)
        self.engine = Engine(
            Meter(self.devices, clock_ns=self.clock), EmissionFactor(intensity("FR")), checkpoint_s=15
        )
        self.uploads = Uploads()
        self.delivery = Worker("test delivery")
        self.sink = StandaloneStages(
            self.uploads,
            self.delivery,
            len(self.devices),
            self.engine.to_footprint,
            lambda footprint, status, trace_id: {"carbon.status": status},
            process="p",
            clock=lambda: self.clock() / 1e9,
            wall_ns=self.clock,
        )
        self.engine.sinks.add(self.sink)

    def open(self, kind, above=None, **keywords):
        return self.engine.open(kind, kind, {}, above, **keywords)

    def advance(self, seconds):
        for _ in range(seconds):
            self.clock.advance(1)
            self.engine.tick()
            self.delivered()  # on a virtual clock a later checkpoint would overtake this one

    def delivered(self):
        assert self.delivery.submit(lambda: None).wait(20)
        return [names.unpack(batch.values, batch.tags) for batch in self.uploads.batches]


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////a.db")
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(is_tracking_uri_set=lambda: True))
    bench = Bench()
    yield bench
    bench.delivery.close()


def joules(values, name):
    return values[name] * 3600


def test_nested_stages_count_with_what_they_paid_themselves(bench):
    outer = bench.open("data_processing")
    bench.advance(4)
    inner = bench.open("evaluation", outer)
    bench.advance(6)
    bench.engine.close(inner)
    outer.units["rows"] = 7.0
    bench.engine.close(outer)
    bench.engine.tick(checkpoint=True)
    values, _ = bench.delivered()[-1]
    assert joules(values, "carbon/data_processing/energy_wh") == pytest.approx(4 * 250)
    assert joules(values, "carbon/evaluation/energy_wh") == pytest.approx(6 * 250)
    assert joules(values, "carbon/energy_wh") == pytest.approx(2500)
    assert joules(values, "carbon/components/gpu_wh") == pytest.approx(2000)
    assert values["carbon/units/data_processing/rows"] == 7.0
    assert values["carbon/duration_s"] == pytest.approx(10)


def test_a_stage_that_outlives_checkpoints_is_in_each_of_them(bench):
    stage = bench.open("training")
    bench.advance(40)
    first, second = bench.delivered()
    assert joules(first[0], "carbon/energy_wh") < joules(second[0], "carbon/energy_wh") <= 40 * 250
    assert second[0]["carbon/duration_s"] == pytest.approx(30, abs=1)
    bench.engine.close(stage)


def test_runs_windows_of_inference_and_time_without_a_stage_are_not_in_it(bench):
    run = bench.engine.open_run("r", "r", None)
    inside = bench.open("training", run)
    bench.advance(5)
    bench.engine.close(inside)
    bench.engine.close(run)
    window = bench.open("inference", recorded=True)
    below = bench.open("data_processing", window)
    bench.advance(5)
    bench.engine.close(below)
    bench.engine.close(window)
    bench.advance(20)
    assert bench.delivered() == []


def test_a_run_that_begins_in_a_stage_is_not_counted_twice(bench):
    outer = bench.open("data_processing")
    bench.advance(2)
    token = current.set(outer)
    run = bench.engine.open_run("r", "r", None)
    current.reset(token)
    bench.advance(3)
    bench.engine.close(run)
    bench.engine.close(outer)
    bench.engine.tick(checkpoint=True)
    values, _ = bench.delivered()[-1]
    assert joules(values, "carbon/energy_wh") == pytest.approx(2 * 250, abs=1e-6)


def test_the_last_state_is_final_and_the_next_stage_opens_another_window(bench):
    bench.engine.close(bench.open("evaluation"))
    bench.engine.tick(checkpoint=True)
    bench.sink.close(1)
    bench.engine.close(bench.open("evaluation"))
    bench.engine.tick(checkpoint=True)
    bench.sink.close(1)
    statuses = [tags["carbon.status"] for _, tags in bench.delivered()]
    assert statuses.count("final") == 2
    assert len({batch.ordering_key for batch in bench.uploads.batches}) == 2


def test_an_hour_that_is_over_is_ended_once_no_stage_is_open(bench):
    stage = bench.open("training")
    bench.advance(1)
    bench.clock.advance(3600)
    bench.engine.tick(checkpoint=True)
    bench.engine.close(stage)
    bench.engine.tick(checkpoint=True)
    assert [tags["carbon.status"] for _, tags in bench.delivered()][-2:] == ["running", "final"]


def test_stages_of_several_threads_lose_nothing(bench):
    def work():
        for _ in range(200):
            bench.engine.close(bench.open("inference"))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        bench.clock.advance(0.1)
        bench.engine.tick()
    for thread in threads:
        thread.join()
    bench.engine.tick(checkpoint=True)
    total = bench.engine.so_far().record
    values, _ = bench.delivered()[-1]
    paid = sum(cost.energy_j for kind, cost in total.by_kind.items() if kind == "inference")
    assert joules(values, "carbon/energy_wh") == pytest.approx(paid)


def test_a_stage_that_a_collection_ends_while_another_one_is_added(bench):
    """Both count, and the thread does not wait for itself."""
    outer, inner = bench.open("training"), bench.open("evaluation")
    amounts = [(inner, [3.0, 0.0])]

    def wall_ns() -> int:
        while amounts:
            stage, joules = amounts.pop()
            bench.sink.energy_attributed(stage.info, joules, 0.3, 0.6)
        return bench.clock()

    bench.sink._wall_ns = wall_ns
    add = threading.Thread(
        target=bench.sink.energy_attributed, args=(outer.info, [2.0, 0.0], 0.2, 0.5), daemon=True
    )
    add.start()
    add.join(20)
    assert not add.is_alive()
    (window,) = bench.sink._windows.values()
    spent = window.spent
    assert spent == {"training": [2.0, 0.0, 0.2, 0.5], "evaluation": [3.0, 0.0, 0.3, 0.6]}


def test_a_stage_goes_to_the_tracking_uri_at_which_it_was_opened(bench, monkeypatch):
    def work(seconds):
        stage = bench.open("training")
        bench.advance(seconds)
        bench.engine.close(stage)

    work(2)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////b.db")
    work(3)
    outer = bench.open("pipeline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////a.db")
    inner = bench.open("training", outer)
    bench.advance(5)
    bench.engine.close(inner)
    bench.engine.close(outer)
    work(20)  # to the next checkpoint
    bench.sink.close(1)
    states = bench.delivered()
    last = {uri: values for uri, (values, _) in zip(bench.uploads.uris, states, strict=True)}
    watts = 250
    assert last["sqlite:////a.db"]["carbon/training/energy_wh"] * 3600 == pytest.approx(22 * watts)
    assert last["sqlite:////b.db"]["carbon/training/energy_wh"] * 3600 == pytest.approx(8 * watts)


def test_stages_before_a_tracking_uri_was_set_go_to_the_one_of_the_first_write(bench, monkeypatch):
    """Their store would be a new file in the working folder, which the program does not use."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    sys.modules["mlflow"].get_tracking_uri = lambda: "sqlite:////set-later.db"
    stage = bench.open("data_processing")
    bench.advance(20)
    bench.engine.close(stage)
    bench.sink.close(1)
    bench.delivered()
    assert set(bench.uploads.uris) == {"sqlite:////set-later.db"}

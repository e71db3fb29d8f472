"""The order of the states of a run, whichever threads report them."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest

from carbon_otel.background import Worker
from carbon_otel.footprint import NOT_MEASURED, Cost
from carbon_otel.mlflow.runs.recorder import RunRecorder
from carbon_otel.records import RUN, Snapshot, StageInfo
from carbon_otel.sinks import Checkpoint, Figures, StageEnd, Tick


class Uploads:
    """The batches from the recorder; `hold` stops it within a call, like a full disk."""

    def __init__(self):
        self.batches = []
        self.reached, self.go = threading.Event(), threading.Event()
        self.go.set()

    def put(self, batch, store):
        self.reached.set()
        assert self.go.wait(20)
        self.batches.append(batch)


def figures() -> Figures:
    return Figures(lambda: None, lambda record: NOT_MEASURED)


def run(run_id: str = "r", parent: StageInfo | None = None) -> StageInfo:
    return StageInfo(1, RUN, run_id, {}, parent, run_id, True, time.time_ns())


def checkpoint(*stages: StageInfo) -> Tick:
    return Tick(1, Snapshot(()), Checkpoint(time.time_ns(), figures(), {s: figures() for s in stages}))


def end(**units: float) -> StageEnd:
    return StageEnd(figures(), 1, 1.0, units)


@pytest.fixture
def uploads():
    return Uploads()


@pytest.fixture
def delivery():
    worker = Worker("test delivery")
    yield worker
    worker.close()


@pytest.fixture
def recorder(uploads, delivery):
    return RunRecorder(
        uploads,
        uploads,
        delivery,
        (),
        lambda record: NOT_MEASURED,
        lambda footprint, status, trace_id: {"carbon.status": status},
        lambda stage: None,
        process="p",
        efficiency_metric=None,
    )


def test_a_slow_disk_delays_neither_the_run_nor_a_tick_and_the_last_state_comes_last(
    recorder, uploads, delivery
):
    uploads.go.clear()
    stage = run()
    recorder.expect("r", None, False)
    recorder.stage_opened(stage)
    assert uploads.reached.wait(20)
    recorder.tick(checkpoint(stage))
    recorder.stage_closed(stage, end())
    recorder.tick(checkpoint(stage))  # a checkpoint from before the end that arrives late
    assert uploads.batches == []
    uploads.go.set()
    assert delivery.submit(lambda: None).wait(20)
    assert [batch.final for batch in uploads.batches] == [False, False, True]
    assert [batch.tags["carbon.status"] for batch in uploads.batches] == ["running", "running", "final"]


def test_units_of_stages_that_end_at_the_same_time_all_count(recorder, delivery, uploads):
    stage = run()
    recorder.expect("r", None, False)
    recorder.stage_opened(stage)
    inner = StageInfo(2, "training", "fit", {}, stage, "r", True, 1)

    def work():
        for _ in range(2000):
            recorder.stage_closed(inner, end(samples=10.0))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    recorder.stage_closed(stage, end())
    assert delivery.submit(lambda: None).wait(20)
    assert uploads.batches[-1].values["carbon/units/training/samples"] == 80_000.0


def test_an_unexpected_run_is_ignored(recorder, delivery, uploads):
    stage = run("unknown")
    recorder.stage_opened(stage)
    recorder.tick(checkpoint(stage))
    recorder.stage_closed(stage, end())
    assert delivery.submit(lambda: None).wait(20)
    assert uploads.batches == []


def of(joules: float) -> Figures:
    """The figures of a run that has used so much."""
    footprint = replace(NOT_MEASURED, energy_j=joules, emissions_g=0.0, stages={RUN: Cost(joules, 0.0)})
    return Figures(lambda: None, lambda record: footprint)


def own_joules(batch) -> float:
    nested_wh = batch.values.get("carbon/nested/run/energy_wh", 0.0)
    return (batch.values["carbon/energy_wh"] - nested_wh) * 3600


def tick_of(joules: dict[StageInfo, float]) -> Tick:
    figures_of = {stage: of(amount) for stage, amount in joules.items()}
    return Tick(1, Snapshot(()), Checkpoint(time.time_ns(), of(0.0), figures_of))


def test_nested_runs_that_end_in_any_order_have_each_joule_once(recorder, delivery, uploads):
    outer = run("outer")
    middle = run("middle", outer)
    inner = run("inner", middle)
    for stage in (outer, middle, inner):
        recorder.expect(stage.run_id, None, False)
        recorder.stage_opened(stage)
    recorder.tick(tick_of({outer: 20.0, middle: 12.0, inner: 4.0}))
    assert delivery.submit(lambda: None).wait(20)
    recorder.stage_closed(middle, StageEnd(of(30.0), 1, 1.0, {}, below={inner: of(10.0)}))
    recorder.tick(tick_of({outer: 60.0, inner: 15.0}))
    assert delivery.submit(lambda: None).wait(20)
    recorder.stage_closed(inner, StageEnd(of(25.0), 1, 1.0, {}))
    recorder.stage_closed(outer, StageEnd(of(100.0), 1, 1.0, {}))
    assert delivery.submit(lambda: None).wait(20)
    states = [(batch.run_id, round(own_joules(batch), 6)) for batch in uploads.batches if batch.values]
    assert states == [
        ("outer", 8.0),
        ("middle", 8.0),
        ("inner", 4.0),
        ("middle", 20.0),
        ("outer", 25.0),
        ("inner", 15.0),
        ("inner", 25.0),
        ("outer", 55.0),
    ]


def test_a_checkpoint_that_comes_after_the_end_of_a_nested_run_has_its_joules_once(
    recorder, delivery, uploads
):
    outer = run("outer")
    inner = run("inner", outer)
    for stage in (outer, inner):
        recorder.expect(stage.run_id, None, False)
        recorder.stage_opened(stage)
    before_the_end = tick_of({outer: 20.0, inner: 9.0})
    recorder.stage_closed(inner, StageEnd(of(10.0), 1, 1.0, {}))
    recorder.tick(before_the_end)
    assert delivery.submit(lambda: None).wait(20)
    assert own_joules(uploads.batches[-1]) == pytest.approx(10.0)

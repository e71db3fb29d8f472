"""The order of the states of a run, whichever threads report them."""

from __future__ import annotations

import threading
import time

import pytest

from carbon_otel.background import Worker
from carbon_otel.footprint import NOT_MEASURED
from carbon_otel.mlflow.runs.recorder import RunRecorder
from carbon_otel.records import RUN, Snapshot, StageInfo
from carbon_otel.sinks import Checkpoint, Figures, StageEnd, Tick


class Uploads:
    """The batches from the recorder; `hold` stops it within a call, like a full disk."""

    healthy = False

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

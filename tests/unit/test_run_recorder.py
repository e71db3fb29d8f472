"""The order of a run's states, whichever threads write them."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from carbon_otel.footprint import NOT_MEASURED
from carbon_otel.mlflow.runs.recorder import RunRecorder
from carbon_otel.stages.engine import OpenStage


class Engine:
    """One that opens a stage for a run and closes it; what it would measure is of no matter here."""

    def open_run(self, run_id, name, parent_run_id):
        stage = SimpleNamespace(
            run_id=run_id, sequence=1, start_unix_ns=0, parent=None, units={"samples": 10.0}
        )
        stage.run, stage.kind = stage, "training"
        return stage

    def close(self, stage):
        pass


class DeliveryWorker:
    healthy = False

    def __init__(self):
        self.put_batches = []

    def put(self, batch, store):
        self.put_batches.append(batch)


class Reading:
    """Footprints, of which the next takes as long as a test wants once it is `slow`."""

    def __init__(self):
        self.slow = False
        self.reached, self.go = threading.Event(), threading.Event()

    def __call__(self, stage: OpenStage):
        if self.slow:
            self.slow = False
            self.reached.set()
            assert self.go.wait(20)
        return NOT_MEASURED


@pytest.fixture
def reading():
    return Reading()


@pytest.fixture
def bridge(reading, monkeypatch):
    made = RunRecorder(
        Engine(),
        reading,
        lambda footprint, status, stage: {"carbon.status": status},
        DeliveryWorker(),
        checkpoint_s=0.0,
        process="p",
        efficiency_metric=None,
    )
    monkeypatch.setattr(made, "_reconcile", lambda run_id: None)
    made.run_started("r", "r", None, None, False, 1)
    return made


@pytest.mark.parametrize("write", ["tick", "flush"])
def test_after_a_runs_last_state_comes_no_other(bridge, reading, write):
    """A checkpoint that is being read while the run ends comes before its end, or not at all."""
    reading.slow = True
    other = threading.Thread(target=getattr(bridge, write), args=(None,))
    other.start()
    assert reading.reached.wait(20)
    end = threading.Thread(target=bridge.run_ended, args=("r",))
    end.start()
    end.join(0.2)  # without an order, it would have been written by now
    reading.go.set()
    end.join(20), other.join(20)
    assert [batch.final for batch in bridge._writer.put_batches] == [False, False, True]
    assert [batch.step for batch in bridge._writer.put_batches] == [0, 0, 1]


def test_units_of_stages_that_end_at_once_all_count(bridge):
    stage = bridge._runs["r"].stage
    threads = [
        threading.Thread(target=lambda: [bridge.closed(stage, None) for _ in range(2000)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bridge._runs["r"].units == {"training/samples": 80_000.0}

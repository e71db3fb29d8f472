"""The writer's order: what was not written of a run goes before what came later, whatever fails in between."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace

import pytest

from carbon_otel.mlflow import writer
from carbon_otel.mlflow.naming import ENERGY_WH
from carbon_otel.mlflow.writer import Batch, Writer


class Store:
    """An MLflow tracking store at its `log_batch` and `get_run`; `down` as a server that is gone."""

    def __init__(self):
        self.down = False
        self.points = {}
        self.tags = {}

    def log_batch(self, run_id, metrics, params, tags):
        if self.down:
            raise ConnectionError("refused")
        for m in metrics:
            self.points.setdefault(run_id, {})[m.step, m.timestamp] = m.value
        self.tags.setdefault(run_id, {}).update((t.key, t.value) for t in tags)

    def get_run(self, run_id):
        if self.down:
            raise ConnectionError("refused")
        points = self.points.get(run_id, {})
        last = [metric(ENERGY_WH, points[max(points)], max(points)[1], max(points)[0])] if points else []
        return SimpleNamespace(data=SimpleNamespace(_metric_objs=last, tags=self.tags.get(run_id, {})))

    def values(self, run_id):
        return [value for _, value in sorted(self.points[run_id].items())]


def metric(key, value, timestamp, step):
    return SimpleNamespace(key=key, value=value, timestamp=timestamp, step=step)


@pytest.fixture
def store(monkeypatch):
    entities = SimpleNamespace(Metric=metric, RunTag=lambda key, value: SimpleNamespace(key=key, value=value))
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    return Store()


@pytest.fixture
def pauses(monkeypatch):
    """The writer waits at `reached` after a failure, until `go`; no time passes."""
    reached, go = threading.Semaphore(0), threading.Semaphore(0)

    def sleep(seconds):
        reached.release()
        assert go.acquire(timeout=20)

    monkeypatch.setattr(writer, "time", SimpleNamespace(sleep=sleep))
    return SimpleNamespace(reached=lambda: reached.acquire(timeout=20), go=go.release)


def batch(store, segment, energy_wh, run_id="r", step=0, status="final", resumed=None):
    return Batch(
        run_id=run_id,
        segment=segment,
        values={ENERGY_WH: energy_wh},
        tags={"carbon.status": status},
        step=step,
        timestamp_ms=1000 * segment + step,
        store=store,
        resumed=segment > 1 if resumed is None else resumed,
    )


def test_a_segment_that_failed_is_written_before_a_later_one_of_its_run(store, pauses):
    store.down = True
    w = Writer()
    w.put(batch(store, 1, 5.0))
    assert pauses.reached()
    w.put(batch(store, 2, 3.0))
    w.put(batch(store, 3, 1.0))
    store.down = False
    pauses.go()
    assert w.wait(20) and w.healthy
    assert store.values("r") == [5.0, 8.0, 9.0]
    assert store.tags["r"]["carbon.segments"] == "3"
    w.close(1)


def test_a_later_segment_waits_while_the_first_keeps_failing(store, pauses):
    """The store comes back between the two: the later one must not slip by."""
    w = Writer()
    log_batch, refused = store.log_batch, []

    def refuse_the_first_once(run_id, metrics, params, tags):
        if metrics[0].value == 5.0 and not refused:
            refused.append(run_id)
            raise ConnectionError("refused")
        log_batch(run_id, metrics, params, tags)

    store.down = True
    w.put(batch(store, 1, 5.0))
    assert pauses.reached()
    w.put(batch(store, 2, 3.0))
    w.put(batch(store, 9, 7.0, run_id="other", resumed=False))
    store.down, store.log_batch = False, refuse_the_first_once
    pauses.go()
    assert pauses.reached()
    assert refused == ["r"] and store.values("other") == [7.0] and "r" not in store.points
    pauses.go()
    assert w.wait(20)
    assert store.values("r") == [5.0, 8.0]
    w.close(1)


def test_a_segment_that_begins_while_the_first_is_failing(store, pauses):
    w = Writer()
    log_batch = store.log_batch

    def begin_the_next_and_fail(*args, **kwargs):
        store.log_batch = log_batch
        w.put(batch(store, 2, 3.0))
        raise ConnectionError("refused")

    store.log_batch = begin_the_next_and_fail
    w.put(batch(store, 1, 5.0))
    assert pauses.reached()
    pauses.go()
    assert w.wait(20)
    assert store.values("r") == [5.0, 8.0]
    w.close(1)


def test_a_newer_state_of_a_failed_segment_keeps_its_place(store, pauses):
    store.down = True
    w = Writer()
    w.put(batch(store, 1, 4.0, status="running"))
    assert pauses.reached()
    w.put(batch(store, 1, 5.0, step=1))
    w.put(batch(store, 2, 3.0))
    store.down = False
    pauses.go()
    assert w.wait(20)
    assert store.values("r") == [5.0, 8.0]
    assert store.tags["r"]["carbon.status"] == "final"
    w.close(1)


def test_an_answer_that_was_lost_counts_nothing_twice(store, pauses):
    """The store took the batch, its answer did not arrive: the writer writes it again."""
    w = Writer()
    log_batch = store.log_batch
    w.put(batch(store, 1, 5.0))
    assert w.wait(20)

    def take_and_fail(*args, **kwargs):
        log_batch(*args, **kwargs)
        store.log_batch = log_batch
        raise TimeoutError("no answer")

    store.log_batch = take_and_fail
    w.put(batch(store, 2, 3.0))
    assert pauses.reached()
    pauses.go()
    assert w.wait(20)
    assert store.values("r") == [5.0, 8.0]
    assert store.tags["r"]["carbon.segments"] == "2"
    w.close(1)

"""A run that several processes write to is their sum, in whatever order their calls reach the store."""

from __future__ import annotations

import random
import threading
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_otel.mlflow.delivery.batch import Batch
from carbon_otel.mlflow.delivery.uploader import Uploader
from carbon_otel.mlflow.schema import contributions
from carbon_otel.mlflow.schema.names import ENERGY_WH

pytest.importorskip("mlflow")


class Store:
    """A tracking store with one run. Each call is made when `order` says so."""

    def __init__(self, order):
        self.points = {}
        self.tags = {}
        self._order = order

    def log_batch(self, run_id, metrics, params, tags):
        self._order.wait()
        for m in metrics:
            if m.key == ENERGY_WH:
                self.points[m.step, m.timestamp, m.value] = m
        self.tags.update((tag.key, tag.value) for tag in tags)

    def get_run(self, run_id):
        self._order.wait()
        return SimpleNamespace(data=self.data(), info=SimpleNamespace(start_time=1000))

    def data(self):
        """As MLflow answers: the last point is that with the greatest step, time and value."""
        latest = [self.points[max(self.points)]] if self.points else []
        metrics = {m.key: m.value for m in latest}
        return SimpleNamespace(_metric_objs=latest, metrics=metrics, tags=dict(self.tags))


class Order:
    """Lets one thread go on at a time, chosen at random, up to its next call of `wait`."""

    def __init__(self, seed):
        self._random = random.Random(seed)
        self._waiting = {}
        self._changed = threading.Condition()

    def run(self, functions):
        threads = [threading.Thread(target=function) for function in functions]
        for thread in threads:
            thread.start()
        while living := [thread for thread in threads if thread.is_alive()]:
            with self._changed:
                all_wait = all(thread.ident in self._waiting for thread in living)
                if not all_wait:
                    self._changed.wait(0.001)
                    continue
                self._waiting.pop(self._random.choice(sorted(self._waiting))).set()

    def wait(self):
        turn = threading.Event()
        with self._changed:
            self._waiting[threading.get_ident()] = turn
            self._changed.notify()
        turn.wait()


class Process:
    """A process that writes two states of its segment, of which the second is its last."""

    def __init__(self, number, store, killed=False):
        self._number = number
        self._killed = killed
        self._uploader = Uploader(store, of_ended=killed)
        self.joules = 2.0**number  # each sum is of different ones

    def write(self):
        for step, share in enumerate((0.5, 1.0)):
            self._uploader._write([self._state(step, share * self.joules)])

    def _state(self, step, wh):
        return Batch(
            run_id="r",
            segment=1,
            values={ENERGY_WH: wh},
            tags={"carbon.status": "running"},
            step=step,
            timestamp_ms=1000 + step,
            contribution_id=f"p{self._number}",
            resumed=True,
            final=step == 1 and not self._killed,
        )


@given(st.integers(0, 2**32), st.integers(2, 4))
def test_processes_that_end_at_once_leave_their_sum(seed, count):
    order = Order(seed)
    store = Store(order)
    processes = [Process(number, store) for number in range(count)]
    order.run([process.write for process in processes])
    data = store.data()
    assert data.metrics[ENERGY_WH] == sum(process.joules for process in processes)
    assert data.tags["carbon.status"] == "final" and len(contributions.read(data.tags)) == count


@given(st.integers(0, 2**32))
def test_what_a_killed_process_has_left_is_added_whenever_it_is_sent(seed):
    order = Order(seed)
    store = Store(order)
    processes = [Process(0, store), Process(1, store), Process(2, store, killed=True)]
    order.run([process.write for process in processes])
    data = store.data()
    assert data.metrics[ENERGY_WH] == 7
    assert data.tags["carbon.status"] == "running" and len(contributions.read(data.tags)) == 3

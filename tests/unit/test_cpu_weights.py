"""Weights of concurrent stages by the CPU time of their threads."""

from __future__ import annotations

import sys
import threading

import pytest

from carbon_otel.stages.cpu_weights import ThreadWeights, thread_cpu_seconds

linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's per-thread clocks are Linux's")


class Times:
    """CPU seconds of threads 1, 2, … and of the process, set by a test."""

    def __init__(self) -> None:
        self.threads = {1: 10.0, 2: 20.0}
        self.process = 100.0
        self.weights = ThreadWeights(self.threads.get, lambda: self.process)

    def weigh(self, payers: dict[str, int], spent: dict[int, float], elsewhere: float = 0.0):
        self.weights.weigh(payers)
        for thread, seconds in spent.items():
            self.threads[thread] += seconds
        self.process += sum(spent.values()) + elsewhere
        return self.weights.weigh(payers)


@pytest.mark.parametrize(
    ("payers", "spent", "elsewhere", "expected"),
    [
        ({"a": 1, "b": 2}, {1: 3, 2: 1}, 0.0, {"a": 1.5, "b": 0.5}),
        ({"a": 1, "b": 2}, {1: 2, 2: 0}, 0.0, {"a": 2.0, "b": 0.001}),
        ({"a": 1, "b": 1, "c": 2}, {1: 3, 2: 3}, 0.0, {"a": 0.75, "b": 0.75, "c": 1.5}),
        ({"a": 1, "b": 2}, {1: 3, 2: 1}, 0.4, {"a": 1.5, "b": 0.5}),
        ({"a": 1, "b": 2}, {1: 3, 2: 1}, 0.5, None),
        ({"a": 1, "b": 2}, {}, 0.0, None),
    ],
    ids=["three to one", "one waits", "two in a thread", "nearly explained", "a pool works", "all wait"],
)
def test_weights(payers, spent, elsewhere, expected):
    weights = Times().weigh(payers, spent, elsewhere)
    assert weights == (pytest.approx(expected) if expected else None)


def test_a_new_or_dead_thread_makes_the_weights_unknown():
    times = Times()
    assert times.weights.weigh({"a": 1, "b": 2}) is None
    times.threads[3] = 0.0
    assert times.weigh({"a": 1}, {1: 1}) == {"a": 1.0}
    assert times.weights.weigh({"a": 1, "c": 3}) is None
    del times.threads[3]
    assert times.weights.weigh({"a": 1, "c": 3}) is None


@linux
def test_cpu_seconds_of_a_living_thread_grow_and_those_of_a_dead_one_are_unknown():
    ids, stop = [], threading.Event()

    def work() -> None:
        ids.append(threading.get_native_id())
        while not stop.is_set():
            pass

    thread = threading.Thread(target=work)
    thread.start()
    try:
        while not ids:
            pass
        first = thread_cpu_seconds(ids[0])
        assert first is not None
        while thread_cpu_seconds(ids[0]) <= first:
            pass
    finally:
        stop.set()
        thread.join()
    while thread_cpu_seconds(ids[0]) is not None:  # the kernel ends the thread a moment after Python
        pass
    assert thread_cpu_seconds(threading.get_native_id()) > 0

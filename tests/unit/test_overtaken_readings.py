"""Readings of several threads: a thread may wait for the interpreter between a reading and its clock."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from carbon_otel.carbon.grid import EmissionFactor, intensity
from carbon_otel.meter.meter import Meter
from carbon_otel.stages.engine import Engine
from tests.fakes.clock import Clock
from tests.fakes.sensors import FakeSensor

WATTS = 100
FACTOR = EmissionFactor(intensity("FR"))


class ExactCounter(FakeSensor):
    """A counter that is a function of the monotonic clock, and releases the interpreter in each reading."""

    def __init__(self) -> None:
        super().__init__(Clock(), joules_per_unit=1e-9)
        self.raw: list[int] = []
        self._begin_ns = time.monotonic_ns()

    def read(self) -> float:
        raw = WATTS * (time.monotonic_ns() - self._begin_ns)
        self.raw.append(raw)
        time.sleep(0)  # like a system call; another thread runs before this call returns
        return raw


def compute(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


@pytest.mark.parametrize("threads", [1, 8, 32])
def test_stages_in_threads_add_up_to_the_counter(threads):
    counter = ExactCounter()
    engine = Engine(Meter([counter]), FACTOR)
    ready = threading.Barrier(threads)

    def work() -> list[float]:
        ready.wait()
        joules = []
        for _ in range(4):
            stage = engine.open("training", "training", {})
            compute(0.002)
            engine.close(stage)
            joules.append(engine.books.totals(stage.account).exclusive_j[0])
        return joules

    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(work) for _ in range(threads)]
        stages_j = sum(sum(future.result()) for future in futures)
    timeline = engine.meter.tracks[0].timeline
    engine.tick()
    while timeline.published_j > timeline.true_j:  # the power of one moment was too high for the next
        engine.tick()
    spent_j = (counter.raw[-1] - counter.raw[0]) * 1e-9
    assert timeline.flags == {}
    assert timeline.published_j == pytest.approx(spent_j, rel=1e-9)
    engine.books.settle(engine.books.root)
    assert stages_j + engine.books.totals(engine.books.root).exclusive_j[0] == pytest.approx(
        spent_j, rel=1e-9
    )

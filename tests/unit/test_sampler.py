"""The sampler's thread and background workers: their faults are logged once and stop nothing."""

from __future__ import annotations

import logging
import threading

import pytest

from carbon_otel import guard
from carbon_otel.background import Worker
from carbon_otel.meter.sampler import Sampler


@pytest.fixture(autouse=True)
def fresh_faults():
    guard.forget()


def test_the_sampler_ticks_until_it_is_stopped_even_if_ticks_fail(caplog):
    ticks, enough = [], threading.Event()

    def tick():
        ticks.append(threading.current_thread())
        if len(ticks) == 5:
            enough.set()
        raise OSError("no more descriptors")

    sampler = Sampler(tick, 0.01)
    with caplog.at_level(logging.WARNING, "carbon_otel"):
        sampler.start()
        assert enough.wait(10)
        sampler.stop(timeout_s=10)
    assert not ticks[0].is_alive() and ticks[0].daemon
    assert len({thread.ident for thread in ticks}) == 1
    assert [r.getMessage() for r in caplog.records] == [
        "reading the sensors failed: OSError('no more descriptors'); the program continues"
    ]


def test_the_sampler_can_be_stopped_from_its_own_tick():
    stopped = threading.Event()

    def tick():
        sampler.stop(timeout_s=10)
        stopped.set()

    sampler = Sampler(tick, 0.01)
    sampler.start()
    assert stopped.wait(10)


def test_a_worker_makes_calls_in_order_and_survives_failures(caplog):
    done: list[int] = []
    worker = Worker("carbon_otel-test")
    with caplog.at_level(logging.WARNING, "carbon_otel"):
        events = [worker.submit(lambda n=n: done.append(n // (n != 3))) for n in range(6)]
        assert all(event.wait(10) for event in events)
    assert done == [0, 1, 2, 4, 5]
    assert len(caplog.records) == 1 and "carbon_otel-test" in caplog.text

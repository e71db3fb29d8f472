"""Units that threads count at once: none is lost."""

from __future__ import annotations

import sys
import threading

import pytest

from carbon_otel.meter.meter import Meter
from carbon_otel.stages.engine import Engine
from carbon_otel.stages.parts import Receiver
from carbon_otel.stages.preparing import prepare_part
from tests.fakes.clock import Clock
from tests.unit.test_engine import FACTOR

THREADS, TIMES = 8, 3_000


@pytest.fixture
def engine():
    return Engine(Meter([], clock_ns=Clock()), FACTOR)


@pytest.fixture(autouse=True)
def often():
    """Threads take turns after each few bytecodes."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def count_in_threads(count) -> None:
    def many() -> None:
        for _ in range(TIMES):
            count({"samples": 1, "rows": 2})

    threads = [threading.Thread(target=many) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_calls_in_threads_lose_no_unit_of_the_stage_around_them(engine):
    stage = engine.open("inference", "serve", {})
    count_in_threads(stage.count)
    engine.close(stage)
    assert stage.end.units == {"samples": THREADS * TIMES, "rows": 2 * THREADS * TIMES}


def test_units_of_the_user_are_in_place_of_those_of_calls(engine):
    stage = engine.open("inference", "serve", {})
    stage.count({"samples": 3, "rows": 1})
    stage.units["samples"] = 10
    assert stage.all_units == {"samples": 10, "rows": 1}


def test_no_unit_is_lost_while_the_stage_of_a_receiver_opens(engine):
    receiver = Receiver()
    stage = prepare_part(engine, engine.root, "training", "epochs", 0)
    opener = threading.Timer(0.02, receiver.opened, [stage])
    opener.start()
    count_in_threads(receiver.count)
    opener.join()
    assert stage.all_units == {"samples": THREADS * TIMES, "rows": 2 * THREADS * TIMES}

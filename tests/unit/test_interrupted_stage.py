"""An exception before every bytecode of a stage's edges: it reaches the user, and nothing is left half done."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from pathlib import Path

import pytest

import carbon_otel
from carbon_otel import runtime
from carbon_otel.meter.meter import Meter
from carbon_otel.sinks import Sink
from carbon_otel.stages import api
from carbon_otel.stages.engine import Engine
from carbon_otel.stages.open_stage import current
from tests.fakes.clock import Clock
from tests.fakes.sensors import gpu, package
from tests.unit.test_engine import FACTOR

PACKAGE = str(Path(carbon_otel.__file__).parent)


class GreenletExit(BaseException):
    """As greenlet's own."""


class TimeLimit(Exception):
    """As a time limit of the application raises it."""


EXCEPTIONS = [
    KeyboardInterrupt,
    SystemExit,
    GreenletExit,
    asyncio.CancelledError,
    MemoryError,
    TimeLimit,
    TimeoutError,  # an OSError, which sensors catch
    ValueError,
]


class Payments(Sink):
    def __init__(self) -> None:
        self.closed: list[object] = []

    def stage_closed(self, stage, end):
        self.closed.append(stage)


class Bench:
    """A measurement on a virtual clock, in which `stage()` opens stages."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.devices = [package(self.clock, watts=100), gpu(self.clock, watts=300)]
        self.sink = Payments()
        self.engine = Engine(Meter(self.devices, clock_ns=self.clock), FACTOR, [self.sink])

    def synchronize(self) -> None:
        """As of a session without an accelerator."""

    def check(self) -> None:
        engine = self.engine
        left = current.get()
        assert left is None or not left.open
        assert not engine._turns.busy
        assert not engine._turns._lock._is_owned()
        for _ in range(2):  # a device that was not read at the exception is read
            engine.tick()
            self.clock.advance(1)
        engine.tick()
        assert not engine._open and not engine._turns.late
        begun = engine.books.totals(engine.root.account)
        with api.stage("later") as later:
            self.clock.advance(10)
        engine.tick()
        assert current.get() is None
        paid = later._last.end.figures.record
        assert paid.exclusive_j == pytest.approx(4000, rel=1e-9)
        totals = engine.books.totals(engine.root.account)
        for i, track in enumerate(engine.meter.tracks):
            spent = self.devices[i].spent_j
            assert track.own_j == pytest.approx(spent, rel=1e-9)
            assert totals.inclusive_j[i] == pytest.approx(spent, rel=1e-9)
        by_kind = sum(cost.energy_j for cost in totals.by_kind.values())
        assert by_kind == pytest.approx(sum(totals.inclusive_j), rel=1e-9)
        assert begun.exclusive_j <= totals.exclusive_j


@pytest.fixture
def bench(monkeypatch):
    made: list[Bench] = []

    def make() -> Bench:
        made.append(Bench())
        return made[-1]

    monkeypatch.setattr(api, "recorder", lambda: made[-1])
    return make


def single(bench: Bench) -> None:
    with api.stage("single"):
        bench.clock.advance(1)


def block(bench: Bench) -> None:
    with api.stage("outer"):
        bench.clock.advance(1)
        with api.stage("inner"):
            bench.clock.advance(2)
        bench.clock.advance(3)


def decorated(bench: Bench) -> None:
    @api.stage("decorated")
    def work() -> None:
        bench.clock.advance(2)

    work()


def generator(bench: Bench) -> None:
    @api.stage("generator")
    def numbers():
        for number in range(2):
            bench.clock.advance(2)
            yield number

    for _ in numbers():
        bench.clock.advance(1)


def asynchronous(bench: Bench) -> None:
    @api.stage("async")
    async def work() -> None:
        async with api.stage("inner"):
            bench.clock.advance(2)

    coroutine = work()
    try:
        coroutine.send(None)
    except StopIteration:
        return
    finally:
        coroutine.close()


def beside(bench: Bench) -> None:
    """Stages that end in another order than they opened, a run, a pause and ticks."""
    engine = bench.engine
    run = engine.open_run("run", "run", None)
    opened = []
    try:
        for name in ("first", "second"):
            opened.append(engine.open(name, name, {}, run))
            bench.clock.advance(1)
        engine.pause(opened[1])
        engine.tick()
        engine.resume(opened[1])
        bench.clock.advance(1)
        engine.so_far(run)
    finally:
        engine.close_all()


SAMPLE = int(os.environ.get("SAMPLE", "150"))
WORKS = [block, decorated, generator, asynchronous, beside]


def bytecodes(work, at: int, action) -> int:
    """Do the work; `action` comes before bytecode number `at` in the package. The number of bytecodes."""
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode":
            count += 1
            if count == at:
                sys.settrace(None)
                action(frame)
        return trace

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(None)
    return count


def count_of(bench, work) -> int:
    return bytecodes(lambda: work(bench()), -1, None)


def test_an_exception_before_each_bytecode_of_a_stage(bench):
    for at in range(1, count_of(bench, single) + 1):
        check_interrupted(bench(), single, at, EXCEPTIONS[at % len(EXCEPTIONS)])


@pytest.mark.parametrize("work", WORKS)
def test_an_exception_before_some_bytecodes_of_other_stages(bench, work):
    """The long variant has all of them."""
    count = count_of(bench, work)
    for at in random.Random(1).sample(range(1, count + 1), min(count, SAMPLE)):
        check_interrupted(bench(), work, at, EXCEPTIONS[at % len(EXCEPTIONS)])


@pytest.mark.soak
@pytest.mark.parametrize("exception", EXCEPTIONS)
@pytest.mark.parametrize("work", WORKS)
def test_any_exception_before_any_bytecode(bench, work, exception):
    for at in range(1, count_of(bench, work) + 1):
        check_interrupted(bench(), work, at, exception)


def check_interrupted(bench: Bench, work, at: int, exception) -> None:
    where = []

    def handler(number, frame):
        where.append(f"{frame.f_code.co_qualname}:{frame.f_lineno}")
        raise exception

    def interrupt(frame) -> None:
        handler(signal.SIGALRM, frame)

    reached = False
    try:
        bytecodes(lambda: work(bench), at, interrupt)
    except exception:
        reached = True
    try:
        assert reached or not where, "the exception did not reach the user"
        bench.check()
    except BaseException as error:
        raise AssertionError(f"{exception.__name__} before bytecode {at}, in {where}") from error


def test_the_faults_of_our_own_are_contained(bench, monkeypatch):
    one = bench()
    monkeypatch.setattr(one.engine.meter, "read_for_edge", lambda now_ns: 1 / 0)
    with api.stage("training"):
        pass
    assert runtime.active() is None

"""An exception before every bytecode of a stage's edges: it reaches the user, and nothing is left half done."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import random
import signal
import sys
from pathlib import Path

import pytest

import carbon_otel
from carbon_otel import guard
from carbon_otel.meter.meter import Meter
from carbon_otel.sensors.base import SensorError
from carbon_otel.sinks import Sink
from carbon_otel.stages import api, automatic, cells, short_calls
from carbon_otel.stages.cells import Share
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
        assert min(cost.energy_j for cost in totals.by_kind.values()) >= -1e-9
        assert begun.exclusive_j <= totals.exclusive_j


@pytest.fixture
def bench(monkeypatch):
    made: list[Bench] = []

    def make() -> Bench:
        made.append(Bench())
        return made[-1]

    for module in api, automatic:
        monkeypatch.setattr(module, "recorder", lambda: made[-1])
    monkeypatch.setattr(short_calls, "_begun", lambda: made[-1])
    monkeypatch.setattr(cells, "_now", lambda: made[-1].clock())
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
        try:
            engine.close_all()
        except BaseException:
            engine.close_all()
            raise


def calls(bench: Bench) -> None:
    """The call of a library, with short calls and a long one in it."""
    with automatic.around("training", "fit", admits=["data_processing"]) or contextlib.nullcontext():
        for seconds in 0.1, 0.2, 1:
            with short_calls.within(READ) or contextlib.nullcontext():
                bench.clock.advance(seconds)
            bench.clock.advance(0.1)
        bench.engine.tick()
        with short_calls.within(READ) or contextlib.nullcontext():
            bench.clock.advance(0.2)


READ = Share("data_processing", "read")
SAMPLE = 300
WORKS = [block, decorated, generator, asynchronous, beside, calls]


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

    gc.disable()  # the finalizers of earlier objects would count
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(None)
        gc.enable()
    return count


def count_of(bench, work) -> int:
    return counted(lambda: work(bench()))


def counted(work) -> int:
    """The number of bytecodes of the work, at its second time: from Python 3.12 on, the first may show fewer."""
    bytecodes(work, -1, None)
    return bytecodes(work, -1, None)


def test_an_exception_before_each_bytecode_of_a_stage(bench):
    count = count_of(bench, single)
    assert count > 500
    for at in range(1, count + 1):
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
        where.append(f"{frame.f_code.co_name}:{frame.f_lineno}")
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


@pytest.mark.parametrize("work", [single, *WORKS])
def test_a_signal_handler_that_measures_before_some_bytecodes(bench, work):
    """What it asks for inside a call is done after it; nothing waits for itself."""
    count = count_of(bench, work)
    for at in random.Random(2).sample(range(1, count + 1), min(count, SAMPLE)):
        one = bench()

        def handle(frame, one=one) -> None:
            with api.stage("handler") as stage:
                one.clock.advance(1)
                one.engine.tick(checkpoint=True)
                assert stage.footprint.energy_j >= 0
            one.engine.so_far()

        bytecodes(lambda one=one: work(one), at, handle)
        try:
            one.check()
        except BaseException as error:
            raise AssertionError(f"before bytecode {at}") from error


def test_an_exception_before_each_bytecode_of_the_end_of_an_abandoned_stage(bench, monkeypatch):
    """Python ignores what a callback of a weak reference raises; the next tick ends the stage."""
    ignored = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)

    def interrupt(frame) -> None:
        raise KeyboardInterrupt

    def abandoned(at: int, action) -> tuple[Bench, int]:
        one = bench()
        held = [api.stage("abandoned")]
        held[0].__enter__()
        one.clock.advance(1)
        return one, bytecodes(held.clear, at, action)

    abandoned(-1, None)
    count = abandoned(-1, None)[1]
    assert count > 100
    for at in range(1, count + 1):
        one, _ = abandoned(at, interrupt)
        one.engine.tick()
        try:
            one.check()
        except BaseException as error:
            raise AssertionError(f"before bytecode {at}") from error
        ignored.clear()


def test_a_fault_of_our_own_is_contained(bench, monkeypatch, caplog):
    one = bench()
    guard.forget()
    monkeypatch.setattr(one.engine.meter, "read_for_edge", lambda now_ns: 1 / 0)
    with api.stage("training"):
        pass
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2


class TestArrived:
    """Which exceptions in our code are not faults of our own."""

    def raised(self, raise_it) -> BaseException:
        with pytest.raises(BaseException) as caught:  # noqa: PT011 - any
            guard.contain("a task", None, raise_it)
        return caught.value

    @pytest.mark.parametrize(
        "handler",
        [
            lambda number, frame: 1 / 0,
            lambda *_: 1 / 0,
            functools.partial(lambda also, number, frame: 1 / 0, "also"),
        ],
    )
    def test_what_a_real_signal_handler_raises(self, handler):
        before = signal.signal(signal.SIGUSR1, handler)
        try:
            assert isinstance(self.raised(lambda: signal.raise_signal(signal.SIGUSR1)), ZeroDivisionError)
        finally:
            signal.signal(signal.SIGUSR1, before)

    def test_what_a_handler_raises_in_a_reading_of_a_sensor(self):
        def read() -> None:
            try:
                signal.raise_signal(signal.SIGUSR1)
            except OSError as error:
                raise SensorError(str(error)) from error

        def limit(number, frame):
            raise TimeoutError

        before = signal.signal(signal.SIGUSR1, limit)
        try:
            assert isinstance(self.raised(read), SensorError)
        finally:
            signal.signal(signal.SIGUSR1, before)

    def test_memory_error(self):
        def exhaust():
            raise MemoryError

        assert isinstance(self.raised(exhaust), MemoryError)

    def test_what_another_thread_raises_here(self, monkeypatch):
        """As by PyThreadState_SetAsyncExc: a class of the application appears in a frame of ours."""
        error = TimeLimit()
        source = "def ours(error):\n    raise error"
        module = {"__name__": "carbon_otel.stages.engine"}
        exec(source, module)
        assert self.raised(lambda: module["ours"](error)) is error

    @pytest.mark.parametrize("fault", [ValueError("x"), OSError("x"), SensorError("x")])
    def test_a_fault_is_contained(self, fault):
        def fail():
            raise fault

        assert guard.contain("a task", "default", fail) == "default"

    def test_a_fault_while_the_program_handles_what_its_handler_raised_is_contained(self):
        def limit(number, frame):
            raise TimeLimit

        before = signal.signal(signal.SIGUSR1, limit)
        try:
            signal.raise_signal(signal.SIGUSR1)
        except TimeLimit:
            assert guard.contain("a task", "default", lambda: 1 / 0) == "default"
        finally:
            signal.signal(signal.SIGUSR1, before)


def test_after_two_exceptions_close_together_the_thread_pays_again(monkeypatch):
    """The second arrives before the first has been dealt with."""
    bench = Bench()
    monkeypatch.setattr(api, "recorder", lambda: bench)
    engine, turns = bench.engine, bench.engine._turns
    edge, give_up = engine.meter.edge, turns.give_up

    def second(here):
        turns.give_up = give_up
        raise KeyboardInterrupt

    def first(now_ns):
        engine.meter.edge, turns.give_up = edge, second
        raise KeyboardInterrupt

    engine.meter.edge = first
    with pytest.raises(KeyboardInterrupt), api.stage("inference"):
        raise AssertionError("the stage has not opened")
    with api.stage("training") as s:
        bench.clock.advance(10)
    engine.tick()
    assert s.footprint.exclusive_j == pytest.approx(4000)
    assert engine.so_far().footprint.stages["inference"].energy_j >= 0
    bench.check()

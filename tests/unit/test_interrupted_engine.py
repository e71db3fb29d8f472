"""Signals and garbage collections at every line of the engine: the books stay right, whatever they do there."""

from __future__ import annotations

import contextlib
import linecache
import sys
import threading

import pytest

import carbon_otel
from carbon_otel import runtime
from carbon_otel.meter.meter import Meter
from carbon_otel.sinks import Sink, nothing_pending
from carbon_otel.stages import accounts, engine, figures, rounds, sums
from carbon_otel.stages.engine import Engine
from tests.fakes.clock import Clock
from tests.fakes.powercap import server
from tests.fakes.sensors import package
from tests.unit.test_engine import FACTOR, Recorder

FILES = {module.__file__ for module in (accounts, engine, figures, rounds, sums)}


class Bench:
    def __init__(self) -> None:
        self.clock = Clock()
        self.device = package(self.clock, watts=100)
        self.sink = Recorder()
        self.engine = Engine(Meter([self.device], clock_ns=self.clock), FACTOR, [self.sink])

    def open(self, kind: str, above=None):
        return self.engine.open(kind, kind, {}, above)

    def work(self) -> None:
        outer = self.open("outer")
        self.clock.advance(1)
        inner = self.open("inner", outer)
        self.clock.advance(2)
        self.engine.pause(inner)
        self.clock.advance(3)
        self.engine.resume(inner)
        self.engine.tick()
        self.engine.close(outer)
        self.clock.advance(4)
        self.engine.close(inner)

    def check(self) -> None:
        """Every joule since is in one place, and a stage gets what it used."""
        joules = sum(amount for _, amount, _ in self.sink.payments)
        spent = self.device.spent_j
        stage = self.open("later")
        self.clock.advance(10)
        self.engine.close(stage)
        assert stage.end.figures.record.exclusive_j == pytest.approx(1000)
        self.clock.advance(10)
        self.engine.tick()
        later = sum(amount for _, amount, _ in self.sink.payments) - joules
        assert later == pytest.approx(self.device.spent_j - spent, abs=500)
        assert not self.engine._open


def lines_of(work) -> int:
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        if frame.f_code.co_filename not in FILES:
            return None
        count += event == "line"
        return trace

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(None)
    return count


def interrupted(work, at: int, action) -> None:
    """Do the work; `action` comes before its line number `at`."""
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        if frame.f_code.co_filename not in FILES:
            return None
        if event == "line":
            count += 1
            if count >= at and not is_atomic(frame):
                sys.settrace(None)
                action()
        return trace

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(None)


def is_atomic(frame) -> bool:
    """CPython handles signals after calls and jumps back, so never before this line."""
    return linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip() == "self._changing = False"


LINES = lines_of(Bench().work)


def test_a_collection_ends_an_abandoned_stage_at_any_line():
    for at in range(1, LINES + 1):
        bench = Bench()
        abandoned = bench.open("abandoned")
        bench.engine.pause(abandoned)

        def collect(bench=bench, abandoned=abandoned) -> None:
            bench.engine.resume(abandoned)
            bench.engine.pause(abandoned)
            bench.engine.close(abandoned)

        interrupted(bench.work, at, collect)
        bench.check()
        bench.engine.tick()
        total = sum(amount for _, amount, _ in bench.sink.payments)
        assert total == pytest.approx(bench.device.spent_j, rel=1e-9), at


def test_a_signal_handler_opens_a_stage_and_flushes_at_any_line():
    for at in range(1, LINES + 1):
        bench = Bench()

        def handle(bench=bench) -> None:
            stage = bench.open("handler")
            inner = bench.open("in it", stage)
            bench.clock.advance(1)
            bench.engine.tick(checkpoint=True)
            bench.engine.close(inner)
            bench.engine.close(stage)

        interrupted(bench.work, at, handle)
        bench.check()
        bench.engine.tick()
        total = sum(amount for _, amount, _ in bench.sink.payments)
        assert total == pytest.approx(bench.device.spent_j, rel=1e-9), at


def test_what_is_measured_after_a_keyboard_interrupt_at_any_line_is_right():
    def interrupt() -> None:
        raise KeyboardInterrupt

    for at in range(1, LINES + 1):
        bench = Bench()
        with contextlib.suppress(KeyboardInterrupt):
            interrupted(bench.work, at, interrupt)
        bench.engine.close_all()
        bench.check()


def test_a_collection_ends_a_stage_while_a_sink_is_told():
    """The locks of OpenTelemetry's instruments let no thread in twice."""
    bench = Bench()
    lock = threading.Lock()

    class Instrument(Sink):
        def energy_attributed(self, stage, joules, grams, embodied_g):
            assert lock.acquire(timeout=0)
            bench.engine.close(abandoned)
            lock.release()

    abandoned = bench.open("abandoned")
    bench.engine.sinks.add(Instrument())
    bench.clock.advance(1)
    bench.engine.tick()
    assert abandoned.end is not None
    assert lock.acquire(timeout=0)


def test_an_end_of_the_measurement_in_a_signal_handler_waits_for_the_call_that_it_interrupts(tmp_path):
    """Else a sink is closed before it is told of the stage's end, and a run that has ended stays `running`."""

    class Told(Sink):
        def __init__(self, interrupts: bool = False) -> None:
            self.told: list[str] = []
            self.interrupts = interrupts

        def stage_closed(self, stage, end):
            self.told.append("stage")
            if self.interrupts:
                carbon_otel.uninstrument()  # as a handler does that is called here

        def close(self, timeout_s):
            self.told.append("close")
            return nothing_pending

    carbon_otel.instrument(zone="FR", powercap_root=server(tmp_path).root)
    session = runtime.active()
    sinks = Told(interrupts=True), Told()
    for sink in sinks:
        session.add_sink(sink)
    with carbon_otel.stage("training"):
        pass
    assert [sink.told for sink in sinks] == [["stage", "close"]] * 2
    assert runtime.active() is None

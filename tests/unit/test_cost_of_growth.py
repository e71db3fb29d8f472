"""What a program pays does not grow with it: function calls are counted, because times depend on the machine."""

from __future__ import annotations

import gc
import sys

import pytest

from carbon_otel.meter.meter import Meter
from carbon_otel.stages.engine import Engine
from carbon_otel.stages.rounds import MOST_TOLD
from tests.fakes.clock import Clock
from tests.fakes.sensors import package
from tests.unit.test_engine import FACTOR, Recorder


class Bench:
    def __init__(self, stages: int, *, nested: bool = False, runs: bool = False) -> None:
        self.clock = Clock()
        self.device = package(self.clock, watts=100)
        self.sink = Recorder()
        self.engine = Engine(Meter([self.device], clock_ns=self.clock), FACTOR, [self.sink])
        self.opened = []
        above = None
        for number in range(stages):
            if runs:
                stage = self.engine.open_run(f"{number}", "run", None)
            else:
                stage = self.engine.open("training", "training", {}, above)
            above = stage if nested else None
            self.opened.append(stage)
        # What is done once, such as filling the caches of isinstance, is done by the first payment.
        for _ in range(2):
            self.engine.tick()
            self.clock.advance(1)

    def edge(self) -> None:
        above = self.opened[-1]
        self.engine.close(self.engine.open("inference", "inference", {}, above))


def steps(work) -> int:
    """The number of lines of Python and of calls into C."""
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        count += 1
        return trace

    def profile(frame, event, argument):
        nonlocal count
        count += event == "c_call"

    # A collection in the middle would count what others hang on it: gc.callbacks, __del__, weak references.
    gc.collect()
    gc.disable()
    sys.settrace(trace)
    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
        sys.settrace(None)
        gc.enable()
    return count


@pytest.mark.parametrize("shape", [{}, {"nested": True}, {"runs": True}], ids=["beside", "nested", "runs"])
def test_an_edge_costs_the_same_however_many_stages_are_open(shape):
    few, many = Bench(100, **shape), Bench(1000, **shape)
    assert steps(many.edge) == pytest.approx(steps(few.edge), rel=0.05)


@pytest.mark.parametrize("shape", [{}, {"nested": True}], ids=["beside", "nested"])
def test_a_tick_costs_the_same_however_many_stages_are_open(shape):
    few, many = Bench(2 * MOST_TOLD, **shape), Bench(20 * MOST_TOLD, **shape)
    assert steps(many.engine.tick) == pytest.approx(steps(few.engine.tick), rel=0.1)


def test_closing_a_stage_with_many_open_stages_in_it_costs_the_same():
    def work(children: int) -> int:
        bench = Bench(1)
        for _ in range(children):
            bench.engine.open("inference", "inference", {}, bench.opened[0])
        return steps(lambda: bench.engine.close(bench.opened[0]))

    assert work(1000) == pytest.approx(work(100), rel=0.05)


def test_every_open_stage_is_told_in_turn_and_all_at_a_flush():
    bench = Bench(3 * MOST_TOLD)
    joules = bench.device.spent_j
    for _ in range(4):
        bench.engine.tick()
    assert sum(amount for _, amount, _ in bench.sink.payments) == pytest.approx(joules, rel=1e-9)
    told = {stage for stage, amount, _ in bench.sink.payments if amount}
    assert told >= {stage.info for stage in bench.opened}
    bench.clock.advance(1)
    bench.engine.tick(checkpoint=True)
    assert sum(amount for _, amount, _ in bench.sink.payments) == pytest.approx(joules + 100, rel=1e-9)


def test_stages_nest_deeper_than_python_recurses_and_end_from_the_outside():
    bench = Bench(sys.getrecursionlimit() * 2, nested=True)
    inner = bench.opened[-1]
    for stage in bench.opened:
        bench.engine.close(stage)
    assert inner.end.figures.record.exclusive_j == pytest.approx(bench.device.spent_j)
    assert bench.engine.so_far().footprint.energy_j == pytest.approx(bench.device.spent_j)

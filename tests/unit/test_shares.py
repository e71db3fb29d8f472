"""Short calls share what the stage around them pays."""

from __future__ import annotations

import threading

import pytest

from carbon_otel.meter.meter import Meter
from carbon_otel.sinks import Sink
from carbon_otel.stages import api, cells
from carbon_otel.stages.cells import Share
from carbon_otel.stages.engine import Engine
from tests.fakes.clock import Clock
from tests.fakes.sensors import package
from tests.unit.test_engine import FACTOR

READ = Share("data_processing", "read")
JOIN = Share("data_processing", "join")


class Recorder(Sink):
    def __init__(self) -> None:
        self.told: list[tuple[object, float]] = []
        self.closed: list[tuple[object, object]] = []

    def energy_attributed(self, stage, joules, grams, embodied_g):
        self.told.append((stage, sum(joules)))

    def stage_closed(self, stage, end):
        self.closed.append((stage, end))


class Bench:
    """A measurement on a virtual clock: a package of 100 W."""

    def __init__(self, monkeypatch) -> None:
        cells._renew()  # another test may have interrupted a call
        self.clock = Clock()
        self.device = package(self.clock, watts=100)
        self.sink = Recorder()
        self.engine = Engine(Meter([self.device], clock_ns=self.clock), FACTOR, [self.sink])
        monkeypatch.setattr(cells, "_now", self.clock)
        monkeypatch.setattr(api, "recorder", lambda: self)

    def synchronize(self) -> None:
        """As of a session without an accelerator."""

    def call(self, share: Share, seconds: float, stage=None, **units: float) -> None:
        stage = stage or self.engine.root
        try:
            cell = cells.cell_of(share, stage)
        except KeyError:
            cell = self.engine.shares.add(share, stage, counts=True)
        with cell as seen:
            self.clock.advance(seconds)
            cell.fresh = units
            seen(None)

    def ended(self, name: str):
        return [(info, end) for info, end in self.sink.closed if info.name == name]

    def check(self) -> None:
        """Every joule has one payer."""
        self.engine.tick(checkpoint=True)
        totals = self.engine.books.totals(self.engine.root.account)
        assert totals.inclusive_j[0] == pytest.approx(self.device.spent_j)
        assert sum(c.energy_j for c in totals.by_kind.values()) == pytest.approx(self.device.spent_j)
        assert sum(joules for _, joules in self.sink.told) == pytest.approx(self.device.spent_j)
        assert min(joules for _, joules in self.sink.told) >= -1e-9


@pytest.fixture
def bench(monkeypatch):
    return Bench(monkeypatch)


def test_calls_of_a_stage_are_one_child_with_their_part_of_the_energy(bench):
    stage = bench.engine.open("etl", "etl", {})
    for _ in range(20):
        bench.call(READ, 0.03, stage, rows=10)
        bench.clock.advance(0.07)
    bench.call(JOIN, 0.001, stage)
    bench.engine.close(stage)
    ((info, end),) = bench.ended("read")
    assert info.parent is stage.info and info.kind == "data_processing"
    assert end.footprint.energy_j == pytest.approx(60)
    assert end.footprint.duration_s == pytest.approx(0.6)
    assert end.footprint.units == {"calls": 20, "rows": 200}
    assert "modelled.time_share" in end.footprint.method and end.footprint.measured_fraction == 0
    assert end.footprint.low_j <= 60 <= end.footprint.high_j
    whole = stage.end.figures.record
    assert whole.inclusive_j == pytest.approx(200.1) and whole.exclusive_j == pytest.approx(140.1)
    assert not bench.ended("join")
    bench.check()


def test_the_energy_is_told_at_ticks(bench):
    bench.engine.tick()
    for _ in range(10):
        bench.call(READ, 0.05)
        bench.clock.advance(0.05)
    bench.engine.tick(checkpoint=True)
    told = {}
    for info, joules in bench.sink.told:
        told[info.name] = told.get(info.name, 0) + joules
    assert told == {"unattributed": pytest.approx(50), "read": pytest.approx(50)}
    bench.check()


def test_a_long_call_is_a_child_of_its_own(bench):
    stage = bench.engine.open("etl", "etl", {})
    bench.clock.advance(1)
    bench.call(READ, 2, stage, rows=7)
    bench.engine.close(stage)
    ((_, end),) = bench.ended("read")
    assert end.footprint.energy_j == pytest.approx(200) and end.footprint.units == {"rows": 7}
    assert end.footprint.duration_s == pytest.approx(2)
    assert stage.end.figures.record.exclusive_j == pytest.approx(100)
    bench.check()


def test_a_long_call_pays_while_it_runs(bench):
    stage = bench.engine.open("etl", "etl", {})
    cell = bench.engine.shares.add(READ, stage, counts=True)
    # As if a function that was changed in place were on the stack of this thread.
    code = compile("with cell:\n    work()", cells.FILE, "exec")

    def work():
        for _ in range(4):
            bench.clock.advance(1)
            bench.engine.tick(checkpoint=True)

    exec(code, {"cell": cell, "work": work})
    bench.engine.close(stage)
    ((_, end),) = bench.ended("read")
    assert end.footprint.energy_j == pytest.approx(400)
    assert stage.end.figures.record.exclusive_j == pytest.approx(0, abs=1e-6)
    bench.check()


def test_twenty_long_calls_at_once_have_spans_of_their_own_and_then_one_a_second(bench):
    stage = bench.engine.open("etl", "etl", {})
    for _ in range(60):
        bench.call(READ, 0.25, stage)
    bench.engine.close(stage)
    ended = bench.ended("read")
    assert 20 + 14 <= len(ended) - 1 <= 20 + 15  # and the others together
    assert sum(end.footprint.energy_j for _, end in ended) == pytest.approx(1500)
    assert sum(end.footprint.units.get("calls", 1) for _, end in ended) == 60
    bench.check()


def test_a_stage_in_between_pays_for_itself(bench):
    outer = bench.engine.open("etl", "etl", {})
    bench.call(READ, 0.2, outer)
    inner = bench.engine.open("training", "training", {}, outer)
    bench.clock.advance(1)
    bench.engine.close(inner)
    bench.call(READ, 0.2, outer)
    bench.clock.advance(0.6)
    bench.engine.close(outer)
    ((_, end),) = bench.ended("read")
    assert end.footprint.energy_j == pytest.approx(40)
    assert inner.end.figures.record.inclusive_j == pytest.approx(100)
    bench.check()


def test_a_call_that_an_exception_has_broken_off_is_forgotten(bench):
    stage = bench.engine.open("etl", "etl", {})
    cell = bench.engine.shares.add(READ, stage, counts=True)
    cell.__enter__()  # and `__exit__` is never called
    bench.clock.advance(1)
    bench.engine.tick()
    assert cells.cell_of(READ, stage) is cell
    cell.__enter__()
    bench.engine.close(stage)
    assert stage.end.figures.record.exclusive_j >= 100 - 1e-6
    bench.call(READ, 0.1)
    bench.check()


def test_calls_in_the_middle_of_a_change_wait_until_it_is_done(bench, monkeypatch):
    """As of a signal handler: the change must not be taken for one that an exception has broken off."""
    broken_off = []
    restore = bench.engine.books.restore
    monkeypatch.setattr(bench.engine.books, "restore", lambda known: broken_off.append(restore(known)))
    stage = bench.engine.open("training", "train", {})

    def handle(now_ns: int) -> None:
        bench.call(READ, 0.1, stage)
        bench.call(READ, 1.0, stage)
        bench.engine.shares.divided(stage)

    bench.engine.at_edge(handle)
    bench.clock.advance(1)
    bench.engine.close(stage)
    assert not broken_off
    assert stage.end.figures.record.inclusive_j == pytest.approx(210)
    assert sum(end.footprint.energy_j for _, end in bench.ended("read")) == pytest.approx(110)
    bench.check()


def test_calls_in_calls_do_not_count(bench):
    stage = bench.engine.open("etl", "etl", {})
    cell = bench.engine.shares.add(READ, stage, counts=True)
    with cell:
        assert cells.cell_of(READ, stage) is None
    assert cells.cell_of(READ, stage) is cell


def test_threads_share_the_time(bench):
    stage = bench.engine.open("etl", "etl", {})
    cells = []
    for _ in range(2):
        thread = threading.Thread(
            target=lambda: cells.append(bench.engine.shares.add(READ, stage, counts=True))
        )
        thread.start()
        thread.join()
    for cell in cells:
        cell.__enter__()
    bench.clock.advance(0.2)
    for cell in cells:
        cell.__exit__(None, None, None)
    bench.engine.close(stage)
    ((_, end),) = bench.ended("read")
    assert end.footprint.energy_j == pytest.approx(20) and end.footprint.units == {"calls": 2}
    bench.check()


def test_nothing_is_kept_of_a_stage_that_has_ended(bench):
    stage = bench.engine.open("etl", "etl", {})
    bench.call(READ, 0.1, stage)
    bench.engine.close(stage)
    assert not bench.engine.shares.live
    with pytest.raises(KeyError):
        cells.cell_of(READ, stage)

"""Steps outside of a loop over data, and loops whose end is not seen, on a virtual clock."""

from __future__ import annotations

import pytest

from carbon_otel.stages import episodes, short_calls, steps
from carbon_otel.stages.episodes import Episode
from carbon_otel.stages.steps import Steps
from tests.unit.test_shares import Bench as Shared

ADAM, SGD = 1, 2


class Bench(Shared):
    """A measurement in which a thread trains."""

    def __init__(self, monkeypatch) -> None:
        super().__init__(monkeypatch)
        episodes._renew()
        for module in episodes, steps:
            monkeypatch.setattr(module, "_now", self.clock)

    def begin(self, stage=None) -> Steps:
        loop = Steps(self.engine.shares.parent(stage or self.engine.root), self.clock())
        episodes.begin(loop)
        return loop

    def step(self, loop: Steps, seconds: float, *optimizers: int) -> None:
        for optimizer in optimizers or (ADAM,):
            loop.before_step(optimizer)
            self.clock.advance(seconds)
            loop.after_step(optimizer)

    def told(self) -> dict[str, float]:
        sums = {"unattributed": 0.0}
        for info, joules in self.sink.told:
            sums[info.name] = sums.get(info.name, 0.0) + joules
        return sums


@pytest.fixture
def bench(monkeypatch):
    return Bench(monkeypatch)


def test_it_lasts_from_the_first_step_to_the_last(bench):
    bench.clock.advance(5)
    loop = bench.begin()
    for _ in range(10):
        bench.step(loop, 0.5)
        bench.clock.advance(1.5)
        bench.engine.tick()
    bench.clock.advance(70)  # the machine of a notebook
    bench.engine.tick()
    ((info, end),) = bench.ended("training")
    assert info.kind == "training" and end.units == {"steps": 10}
    assert end.footprint.energy_j == pytest.approx(100 * (9 * 2 + 0.5))
    assert end.duration_s == pytest.approx(18.5)
    assert loop.ended and episodes.innermost() is None
    bench.check()


def test_what_no_step_has_confirmed_is_told_of_the_stage_around_it_only_at_the_end(bench):
    loop = bench.begin()
    bench.step(loop, 1)
    bench.clock.advance(9)
    bench.engine.tick(checkpoint=True)
    assert bench.told() == {"training": pytest.approx(100), "unattributed": pytest.approx(0, abs=1e-6)}
    bench.step(loop, 1)
    bench.engine.tick(checkpoint=True)
    bench.engine.tick(checkpoint=True)
    assert bench.told() == {"training": pytest.approx(1100), "unattributed": pytest.approx(0, abs=1e-6)}
    bench.clock.advance(59)
    bench.engine.tick(checkpoint=True)
    assert bench.told()["unattributed"] == pytest.approx(0, abs=1e-6)
    bench.clock.advance(2)
    bench.engine.tick(checkpoint=True)
    assert bench.told() == {"training": pytest.approx(1100), "unattributed": pytest.approx(6100)}
    bench.check()


def test_the_rest_of_the_stage_around_it_is_told_meanwhile(bench):
    other = bench.engine.open("etl", "etl", {})
    loop = bench.begin()
    bench.step(loop, 1)
    bench.clock.advance(9)
    bench.engine.close(other)
    bench.clock.advance(4)
    bench.engine.tick(checkpoint=True)
    # Another stage paid for ten seconds, and the four that may be the loop's are held back.
    assert bench.told()["etl"] == pytest.approx(1000)
    assert bench.told()["unattributed"] == pytest.approx(0, abs=1e-6)
    episodes.end(loop)
    bench.check()
    assert bench.told()["unattributed"] == pytest.approx(400)


def test_one_long_step_is_the_training(bench):
    loop = bench.begin()
    loop.before_step(ADAM)
    for _ in range(30):
        bench.clock.advance(10)
        bench.engine.tick()
    loop.after_step(ADAM)
    episodes.end(loop)
    ((_, end),) = bench.ended("training")
    assert end.footprint.energy_j == pytest.approx(30_000) and end.units == {"steps": 1}
    bench.check()


def test_a_step_that_has_raised_does_not_keep_it_open(bench):
    loop = bench.begin()
    bench.step(loop, 1)
    loop.before_step(ADAM)
    bench.step(loop, 1)  # again, after the exception
    loop.before_step(ADAM)
    bench.clock.advance(601)
    bench.engine.tick()
    ((_, end),) = bench.ended("training")
    assert end.footprint.energy_j == pytest.approx(200)
    bench.check()


def test_iterations_are_counted_whatever_steps_in_them(bench):
    loop = bench.begin()
    for _ in range(3):
        bench.step(loop, 0.1, ADAM, SGD)  # as a generator and its discriminator
    loop.before_step(ADAM)  # a subclass that calls the step of its parent
    bench.step(loop, 0.1, ADAM)
    loop.after_step(ADAM)
    assert loop.steps == 4
    episodes.end(loop)
    bench.check()


def test_a_loop_over_data_in_it_is_beside_it(bench):
    loop = bench.begin()
    bench.step(loop, 1)
    inner = episodes.begin(Episode(loop.parent, bench.clock()))
    bench.clock.advance(5)
    bench.engine.tick()
    episodes.end(inner)
    bench.step(loop, 1)
    episodes.end(loop)
    ((_, end),) = bench.ended("training")
    assert end.footprint.energy_j == pytest.approx(200)
    assert sum(e.footprint.energy_j for _, e in bench.ended("evaluation")) == pytest.approx(500)
    bench.check()


def test_it_ends_with_the_stage_around_it_when_it_was_last_seen(bench):
    stage = bench.engine.open("etl", "etl", {})
    loop = bench.begin(stage)
    bench.step(loop, 2)
    bench.clock.advance(3)
    bench.engine.close(stage)
    ((info, end),) = bench.ended("training")
    assert info.parent is stage.info and end.footprint.energy_j == pytest.approx(200)
    assert stage.end.figures.record.exclusive_j == pytest.approx(300)
    bench.check()


def test_a_loop_whose_iterator_is_kept_ends_when_it_was_last_seen(bench):
    held = True
    loop = Episode(bench.engine.shares.parent(bench.engine.root), bench.clock(), lambda: held)
    episodes.begin(loop)
    loop.begin_wait()
    bench.clock.advance(1)
    loop.end_wait()
    bench.clock.advance(2)
    bench.engine.tick()  # the loop has it, so it goes on
    bench.clock.advance(3)
    held = False  # a break, some time after the tick
    bench.clock.advance(4)
    assert episodes.innermost() is None
    ((_, end),) = bench.ended("inference")
    assert end.footprint.energy_j == pytest.approx(300)
    bench.check()


def test_the_tick_ends_it_if_nothing_else_does(bench):
    loop = Episode(bench.engine.shares.parent(bench.engine.root), bench.clock(), lambda: False)
    episodes.begin(loop)
    loop.begin_wait()
    bench.clock.advance(1)
    bench.engine.tick()  # a batch takes as long as it takes
    assert not loop.ended
    loop.end_wait()
    bench.clock.advance(9)
    bench.engine.tick()
    assert loop.ended
    ((_, end),) = bench.ended("inference")
    assert end.footprint.energy_j == pytest.approx(100)
    bench.check()


def test_a_loop_in_the_loading_of_another_has_its_own_time(bench):
    outer = episodes.begin(Episode(bench.engine.shares.parent(bench.engine.root), bench.clock()))
    outer.begin_wait()
    bench.clock.advance(1)
    inner = episodes.begin(Episode(outer.parent, bench.clock()))
    bench.clock.advance(10)  # the first sample takes long
    outer.end_wait()
    outer.before_step(0)
    for _ in range(3):
        bench.clock.advance(2)
        episodes.turn_to(outer).begin_wait()
        bench.clock.advance(1)
        outer.end_wait()
    episodes.end(outer)
    episodes.end(inner)
    ((_, waiting),) = bench.ended("DataLoader")
    ((_, epoch),) = bench.ended("epoch 1")
    assert waiting.footprint.energy_j == pytest.approx(400)
    assert epoch.footprint.energy_j == pytest.approx(2000)
    bench.check()


def test_a_forked_child_asks_again():
    short_calls._refused.stage = object()
    short_calls._renew()
    assert short_calls._refused.stage is None

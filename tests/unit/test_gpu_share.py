"""A process's share of a GPU, from the driver's samples of the processes, and how far it may be wrong."""

from __future__ import annotations

import random
from statistics import fmean

import pytest

from carbon_otel.carbon.grid import EmissionFactor, intensity
from carbon_otel.host.gpu_share import GpuShare
from carbon_otel.meter.meter import Meter
from carbon_otel.meter.sampled_share import NOT_SAMPLED, SampledShare, doubt
from carbon_otel.records import Shares
from carbon_otel.sensors.base import ProcessUse
from carbon_otel.stages.engine import Engine
from tests.fakes.clock import NS, Clock
from tests.fakes.sensors import FakeSensor

OURS, THEIRS = 1, 2
SAMPLES = 5  # a second, as on an H200


class Driver:
    """Looks at a GPU, which is busy for `busy` of the time and works for us with the odds `part`."""

    def __init__(self, part: float, busy: float = 1.0, seed: int = 0) -> None:
        self.part, self.busy = part, busy
        self._random = random.Random(seed)

    def use(self) -> ProcessUse:
        seen = [OURS if self._random.random() < self.part else THEIRS for _ in range(SAMPLES)]
        each = {pid: self.busy * seen.count(pid) / SAMPLES for pid in set(seen)}
        return ProcessUse(each, SAMPLES)


class Sampled:
    """The rule of a process whose share of its only device is sampled at each tick."""

    def __init__(self, driver: Driver, at_edges: bool = True) -> None:
        self._share, self._at_edges = GpuShare(driver.use), at_edges
        self.present = Shares((1.0,), 1.0, 1.0)

    def measure(self, now_ns: int, *, tick: bool) -> Shares | None:
        if tick:
            share, samples = self._share.look({OURS}, 0.0, now_ns)
            self.present = Shares((share,), 1.0, 1.0, samples=(samples,) if samples else ())
        return self.present if tick or self._at_edges else None


def measured(driver: Driver, seconds: int, edges: int = 1):
    """The footprint of a stage, with 100 J a second of the GPU, and edges of other stages between the ticks."""
    clock = Clock()
    sensor = FakeSensor(clock, "GPU-0", "gpu", watts=100, update_period_s=0.0)
    engine = Engine(Meter([sensor], rule=Sampled(driver), clock_ns=clock), EmissionFactor(intensity("FR")))
    for _ in range(60):
        clock.advance(1)
        engine.tick()
    stage = engine.open("training", "training", {})
    for _ in range(seconds):
        for _ in range(edges):
            clock.advance(1 / edges)
            engine.close(engine.open("inference", "inference", {}))
        engine.tick()
    engine.close(stage)
    return engine.to_footprint(stage.end.figures.record)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.8])
@pytest.mark.parametrize(("seconds", "edges"), [(10, 1), (10, 8), (60, 1)])
def test_the_band_has_the_part_of_the_work_in_about_95_of_100_stages(part, seconds, edges):
    found = [measured(Driver(part, seed=seed), seconds, edges) for seed in range(100)]
    truth = 100 * seconds * part
    assert fmean(f.energy_j for f in found) == pytest.approx(truth, rel=0.1)
    assert 90 <= sum(f.low_j <= truth <= f.high_j for f in found) <= 99
    assert {f.flags for f in found} == {("sampled:GPU-0",)}
    # The band is not wider than it must be: twice the standard error to both sides.
    error_j = 100 * seconds * (part * (1 - part) / (SAMPLES * seconds)) ** 0.5
    assert fmean(f.high_j - f.low_j for f in found) == pytest.approx(4 * error_j, rel=0.15)


@pytest.mark.parametrize("at_edges", [True, False])
@pytest.mark.parametrize("begin_s", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("seconds", [0.2, 1.0, 3.0])
def test_the_band_holds_wherever_a_stage_begins_between_two_ticks(seconds, begin_s, at_edges):
    """As in a process of many threads, whose shares are measured at ticks only, and in others."""
    within = []
    for seed in range(100):
        clock = Clock(0)
        sensor = FakeSensor(clock, "GPU-0", "gpu", watts=100, update_period_s=0.0)
        rule = Sampled(Driver(0.5, seed=seed), at_edges)
        engine = Engine(Meter([sensor], rule=rule, clock_ns=clock), EmissionFactor(intensity("FR")))
        stage = None
        events = sorted(
            [(float(tick), "tick") for tick in range(1, 12)]
            + [(5 + begin_s + 1e-6, "begin"), (5 + begin_s + seconds, "end")]
        )
        for at_s, event in events:
            clock.now_ns = round(at_s * NS)
            if event == "tick":
                engine.tick()
            elif event == "begin":
                stage = engine.open("training", "training", {})
            else:
                engine.close(stage)
        found = engine.to_footprint(stage.end.figures.record)
        within.append(found.low_j <= 100 * seconds * 0.5 <= found.high_j)
    assert sum(within) >= 90


def test_a_process_alone_has_the_whole_gpu_without_doubt():
    found = measured(Driver(1.0), 10)
    assert (found.low_j, found.energy_j, found.high_j) == pytest.approx((1000, 1000, 1000))
    assert found.flags == ()


def test_a_process_whose_neighbour_has_just_been_seen_may_have_less_than_all():
    driver = Driver(0.5)
    share = GpuShare(driver.use)
    share.look({OURS}, 0.0, NS)
    driver.part = 1.0
    found = [share.look({OURS}, 0.0, second * NS) for second in (2, 30, 62)]
    assert found == [(1.0, SAMPLES), (1.0, SAMPLES), (1.0, 0)]


def test_a_stage_between_two_ticks_is_as_uncertain_as_the_share_it_has():
    clock = Clock()
    sensor = FakeSensor(clock, "GPU-0", "gpu", watts=100, update_period_s=0.0)
    rule = Sampled(Driver(0.5))
    engine = Engine(Meter([sensor], rule=rule, clock_ns=clock), EmissionFactor(intensity("FR")))
    clock.advance(1)
    engine.tick()
    stage = engine.open("training", "training", {})
    clock.advance(0.5)
    engine.close(stage)
    found = engine.to_footprint(stage.end.figures.record)
    # Wilson's interval of five samples, of which the process has two or three: 0.11 to 0.77, or 0.23 to 0.89.
    assert (rule.present.devices[0], rule.present.samples) in [(0.4, (5.0,)), (0.6, (5.0,))]
    width = found.high_j - found.low_j
    assert width == pytest.approx(50 * 0.659, rel=0.01)
    assert found.flags == ("sampled:GPU-0",)


def test_of_a_gpu_that_is_seldom_busy_little_is_in_doubt():
    driver = Driver(0.5, busy=0.2)
    share = GpuShare(driver.use)
    found = [share.look({OURS}, 0.5, second * NS) for second in range(1, 200)]
    assert fmean(value for value, _ in found) == pytest.approx(0.5, abs=0.02)
    assert {samples for _, samples in found} == {SAMPLES / 0.2}


@pytest.mark.parametrize("use", [None, ProcessUse({}, 5.0), ProcessUse({OURS: 0.0}, 0.0)])
def test_nothing_is_known_of_a_gpu_whose_processes_are_not_reported(use):
    assert GpuShare(lambda: use).look({OURS}, 0.5, NS) is None


def test_the_joules_of_one_share_are_wrong_together_and_those_of_two_are_not():
    sampled = SampledShare()
    sampled.renew(0.0, 5)
    first = sampled.state
    assert 1 / doubt(NOT_SAMPLED, 0.0, (*first, 100.0), 100.0) == pytest.approx(5)
    assert 1 / doubt((*first, 60.0), 60.0, (*first, 60.0), 70.0) == pytest.approx(5)
    sampled.renew(100.0, 5)
    second = sampled.state
    assert 1 / doubt(NOT_SAMPLED, 0.0, (*second, 200.0), 200.0) == pytest.approx(10)
    assert 1 / doubt((*first, 0.0), 0.0, (*second, 300.0), 300.0) == pytest.approx(300**2 / (5e4 / 5))
    assert doubt((*second, 150.0), 150.0, (*second, 150.0), 150.0) == 0
    sampled.renew(200.0, 0)
    assert doubt((*second, 200.0), 200.0, (*sampled.state, 200.0), 200.0) == 0
    assert doubt((*sampled.state, 200.0), 200.0, (*sampled.state, 900.0), 900.0) == 0


def test_what_one_share_has_charged_until_the_next_is_known_has_the_errors_of_both():
    sampled = SampledShare()
    sampled.renew(0.0, 5)
    before = (*sampled.state, 100.0)  # at 190 J, of which 90 J are charged by the share of the 100 J before
    sampled.renew(100.0, 5)
    # 10 J on, all since 100 J are charged by the second share.
    assert doubt(before, 190.0, (*sampled.state, 200.0), 200.0) == pytest.approx((100**2 + 90**2) / 5 / 10**2)

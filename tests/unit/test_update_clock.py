"""The moments at which the counter of a GPU is renewed, found by watching it, and how old a reading is by them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_otel.sensors.base import SensorError
from carbon_otel.sensors.nvidia.update_clock import UpdateClock
from tests.fakes.clock import NS, Clock


class Counter:
    """A counter of 200 W that is renewed each `period_s` from `phase_s` on, and up to `jitter` periods beside.

    A reading takes `takes_s`, and shows what the counter has in its middle; `slow` readings take 30 ms more.
    """

    def __init__(self, period_s=0.1, phase_s=0.03, takes_s=0.0024, jitter=0.0, slow=0.0) -> None:
        self.clock = Clock(1000.0)
        self.period_ns, self.phase_ns = period_s * NS, self.clock() + phase_s * NS
        self.takes_s, self.jitter, self.slow = takes_s, jitter, slow
        self.reads, self.slept_s = 0, 0.0
        self.fault = ""
        self._random = random.Random(0)
        self.updates = UpdateClock(self.read, 0.1, 0.0005, self.clock)

    def renewed_ns(self, at_ns: float) -> float:
        """The moment of the last renewal."""
        count = (at_ns - self.phase_ns) // self.period_ns
        moments = [self._moment_ns(count + more) for more in (-1, 0, 1)]
        return max(moment for moment in moments if moment <= at_ns)

    def _moment_ns(self, count: float) -> float:
        late = random.Random(count).uniform(-self.jitter, self.jitter) if self.jitter else 0.0
        return self.phase_ns + (count + late) * self.period_ns

    def read(self) -> float:
        if self.fault:
            raise SensorError(self.fault)
        self.reads += 1
        self.clock.advance(self.takes_s / 2)
        raw = self.renewed_ns(self.clock()) // 5_000_000  # mJ
        more_s = 0.03 if self._random.random() < self.slow else 0.0
        self.clock.advance(self.takes_s / 2 + more_s)
        return raw

    def sleep(self, seconds: float) -> None:
        self.slept_s += seconds
        self.clock.advance(seconds)

    def tick(self, seconds: int = 1) -> None:
        """Seconds of a sampler."""
        for _ in range(seconds):
            self.clock.now_ns = (self.clock() // NS + 1) * NS
            if self.updates.due:
                self.updates.follow(self.sleep)

    def ages(self) -> list[tuple[float, float, float]]:
        """Of readings in the next minute: the true age, the age that is told, and how far it may be off; in s."""
        found = []
        for _ in range(60):
            for _ in range(10):
                began_ns = self.clock() + self._random.randrange(NS)
                took_ns = round(self.takes_s * NS)
                true_ns = began_ns + took_ns / 2 - self.renewed_ns(began_ns + took_ns / 2)
                shown_ns, unsure_ns = self.updates.shown(began_ns, took_ns)
                found.append((true_ns / NS, (began_ns + took_ns / 2 - shown_ns) / NS, unsure_ns / NS))
            self.tick()
        return found


def known(counter: Counter) -> float:
    """The part of the readings in a minute whose age is told better than by half a period; these are true."""
    found = counter.ages()
    better = [(true, told, unsure) for true, told, unsure in found if unsure < 0.3 * counter.period_ns / NS]
    assert all(abs(told - true) <= unsure + 1e-6 for true, told, unsure in better)
    return len(better) / len(found)


@given(
    period_s=st.floats(0.05, 0.2),
    phase_s=st.floats(0, 0.2),
    drift=st.floats(-500e-6, 500e-6),
    takes_s=st.sampled_from([0.0003, 0.0024]),
)
def test_the_age_of_a_reading_is_known_within_a_few_seconds(period_s, phase_s, drift, takes_s):
    counter = Counter(period_s * (1 + drift), phase_s, takes_s)
    assert counter.updates.watch(counter.sleep)
    counter.tick(30)
    # The shorter the period, the more readings are too close to a renewal.
    assert known(counter) > (0.55 if period_s < 0.08 else 0.8)
    before = counter.reads
    counter.tick(3600)
    assert known(counter) > (0.55 if period_s < 0.08 else 0.8)
    assert counter.reads - before <= 120 * 12  # twice a minute at the most


def test_a_counter_that_is_renewed_fifty_times_a_second_is_not_followed():
    counter = Counter(0.02, 0.003, 0.0005)
    assert counter.updates.watch(counter.sleep)
    before = counter.reads
    counter.tick(3600)
    assert known(counter) == 0
    assert counter.reads - before < 20 * 51  # it is tried ever more seldom, at last each ten minutes


def test_before_it_is_known_a_reading_is_half_a_period_old():
    counter = Counter()
    began_ns = counter.clock()
    assert counter.updates.shown(began_ns, 2_400_000) == (began_ns + 1_200_000 - NS // 20, NS // 20)


def test_a_second_card_of_a_name_is_watched_by_the_way():
    counter = Counter()
    counter.tick()
    assert counter.slept_s < 1
    counter.tick(10)
    assert known(counter) > 0.8


def test_a_clock_that_was_set_back_or_forth_is_found_again():
    counter = Counter()
    assert counter.updates.watch(counter.sleep)
    counter.tick(300)
    counter.phase_ns += 0.04 * NS
    counter.tick(120)
    assert known(counter) > 0.8


def test_of_a_counter_without_a_rhythm_the_ages_are_seldom_told():
    counter = Counter(jitter=0.45)
    assert counter.updates.watch(counter.sleep)
    counter.tick(600)
    told = [age for age in counter.ages() if age[2] < 0.0125]
    assert len(told) < 250
    before, slept_s = counter.reads, counter.slept_s
    counter.tick(3600)
    # It is tried ever more seldom, at last each ten minutes.
    assert counter.reads - before < 20 * 70 and counter.slept_s - slept_s < 20


def test_a_busy_machine_delays_but_does_not_deceive():
    counter = Counter(slow=0.3)
    assert counter.updates.watch(counter.sleep)
    counter.tick(900)
    known(counter)


def test_a_reading_that_took_long_is_less_sure():
    counter = Counter()
    counter.updates.watch(counter.sleep)
    counter.tick(60)
    began_ns = round(counter.renewed_ns(counter.clock())) + NS // 20 - 5_000_000
    _, unsure_ns = counter.updates.shown(began_ns, 2_400_000)
    shown_ns, longer_ns = counter.updates.shown(began_ns, 10_000_000)
    assert unsure_ns < 3_000_000
    assert longer_ns == pytest.approx(unsure_ns + (10_000_000 - 2_400_000) / 2, abs=100_000)
    assert shown_ns == pytest.approx(counter.renewed_ns(began_ns), abs=unsure_ns)
    assert counter.updates.shown(began_ns, 40_000_000)[1] > 49_000_000


def test_a_card_that_fails_is_tried_again_later():
    counter = Counter()
    counter.updates.watch(counter.sleep)
    counter.tick(20)
    counter.fault = "GPU is lost"
    counter.tick(3600)
    assert known(counter) == 0
    counter.fault = ""
    counter.updates.lose()
    counter.tick(10)
    assert known(counter) > 0.8


def test_a_thread_that_sleeps_too_long_forgets_nothing():
    counter = Counter()
    counter.updates.watch(counter.sleep)
    counter.tick(60)
    for _ in range(3):
        counter.updates.follow(lambda seconds: counter.sleep(seconds + 0.25))
    began_ns = round(counter.renewed_ns(counter.clock())) + NS // 20
    assert counter.updates.shown(began_ns, 2_400_000)[1] < 0.005 * NS


def test_what_is_lost_while_it_is_followed_stays_lost():
    counter = Counter()
    counter.updates.watch(counter.sleep)
    counter.tick(60)

    def reload(seconds):
        counter.updates.lose()
        counter.sleep(seconds)

    counter.updates.follow(reload)
    began_ns = round(counter.renewed_ns(counter.clock())) + NS // 20
    assert counter.updates.shown(began_ns, 2_400_000)[1] > 0.03 * NS
    assert counter.updates.due


def test_what_is_not_sure_any_more_is_not_built_upon():
    """A process that was stopped for ten minutes, and then finds a busy machine."""
    counter = Counter()
    counter.updates.watch(counter.sleep)
    counter.tick(3)
    counter.clock.advance(600)
    counter.slow = 0.1
    counter.tick(2)
    counter.slow = 0.0
    known(counter)


def test_a_reading_time_that_was_learned_on_a_busy_machine_is_learned_again():
    counter = Counter(slow=1.0)
    counter.updates.watch(counter.sleep)
    counter.slow = 0.0
    counter.tick(60)
    assert counter.updates.reading_s == pytest.approx(0.0024)
    assert known(counter) > 0.8

"""The forecast after 5 % of the steps, on timelines of a virtual clock: within 5 % of what the whole loop took.

The timelines have what real loops have: a slow first step, a slow first epoch, evaluations, checkpoints, noise.
"""

from __future__ import annotations

import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carbon_otel.forecast.outlook import Pace


def timeline(steps, *, base=0.1, noise=0.05, first=1.0, slow=(0, 1.0), pause=(0, 0.0), schedule=None, seed=1):
    """Seconds of each step: `slow` is (steps, factor), `pause` is (every so many steps, seconds)."""
    drawn = random.Random(seed)
    seconds = []
    for i in range(steps):
        each = base * drawn.lognormvariate(0, noise)
        if i < slow[0]:
            each *= slow[1]
        if i == 0:
            each += first * base
        if pause[0] and (i + 1) % pause[0] == 0:
            each += pause[1] * drawn.lognormvariate(0, noise)
        if schedule is not None:
            each *= schedule(i / steps)
        seconds.append(each)
    return seconds


LOOPS = {
    "steady": {"steps": 2000},
    "noisy": {"steps": 4000, "noise": 0.25},
    "a slow first step": {"steps": 2000, "first": 300.0},
    "a slow first epoch of forty": {"steps": 4000, "slow": (100, 3.0)},
    "evaluations": {"steps": 4000, "pause": (50, 2.0)},
    "long and rare evaluations": {"steps": 4000, "pause": (100, 15.0)},
    "a slow first epoch, and evaluations": {
        "steps": 4000,
        "slow": (50, 2.5),
        "pause": (50, 3.0),
        "first": 100.0,
    },
    "epochs as steps, the first slow": {"steps": 100, "slow": (1, 3.0)},
    "a learning-rate schedule, which costs nothing": {"steps": 3000, "schedule": lambda done: 1.0},
    "a million steps": {"steps": 200_000, "base": 1e-3, "slow": (1000, 2.0), "pause": (1000, 0.5)},
}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("share", [0.05, 0.1, 0.5])
def test_the_forecast_in_the_run_is_within_5_per_cent(loop, share):
    errors = []
    for seed in range(5):
        seconds = timeline(**LOOPS[loop], seed=seed)
        pace, now = Pace(len(seconds), 0.0), 0.0
        for each in seconds[: round(len(seconds) * share)]:
            now += each
            pace.step(now)
        errors.append((now + pace.left_s().p50) / sum(seconds) - 1)
    print(
        f"{loop:45} after {share:4.0%}: median {statistics.median(errors):+.1%}, worst {max(errors, key=abs):+.1%}"
    )
    assert max(map(abs, errors)) <= 0.05


def test_the_mean_of_the_first_steps_would_not_be():
    """What the method is for."""
    seconds = timeline(**LOOPS["a slow first epoch, and evaluations"])
    begun = round(len(seconds) * 0.05)
    assert sum(seconds[:begun]) / begun * len(seconds) > 1.2 * sum(seconds)


def test_the_interval_covers_the_truth():
    covered = 0
    for seed in range(100):
        seconds = timeline(1000, noise=0.3, pause=(25, 1.0), seed=seed)
        pace, now = Pace(1000, 0.0), 0.0
        for each in seconds[:50]:
            now += each
            pace.step(now)
        left = pace.left_s()
        covered += left.p10 <= sum(seconds[50:]) <= left.p90
    assert covered >= 70


@given(
    st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=200),
    st.integers(0, 1000),
)
@settings(max_examples=300)
def test_any_timeline_gives_ordered_percentiles(seconds, more):
    pace, now = Pace(len(seconds) + more, 0.0), 0.0
    for each in seconds:
        now += each
        pace.step(now)
        left = pace.left_s()
        assert 0 <= left.p10 <= left.p50 <= left.p90
        assert 0 <= pace.settled_s <= now * (1 + 1e-9)
    if not more:
        assert pace.left_s().p90 == 0


def test_before_the_first_step_nothing_is_known():
    assert Pace(10, 5.0).left_s().p50 == 0
    with pytest.raises(ValueError, match="number of steps"):
        Pace(0, 0.0)


def test_a_loop_of_millions_of_steps_keeps_a_thousand_groups():
    pace = Pace(3e6, 0.0)
    for i in range(30_000):
        pace.step(float(i), 100)
    assert len(pace._groups) <= 1025 and pace.done == 3e6

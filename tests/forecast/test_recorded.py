"""Real training loops, as they were recorded: after 5 % of their steps, the time of all is known within 5 %."""

from __future__ import annotations

import json

import pytest

from carbon_otel.forecast.outlook import Pace
from tests.forecast.record_timelines import FILE

LOOPS = {name: [us / 1e6 for us in steps] for name, steps in json.loads(FILE.read_text()).items()}


def after(seconds, share):
    """The forecast and its interval after this share of the steps, relative to the truth."""
    pace, now = Pace(len(seconds), 0.0), 0.0
    for each in seconds[: round(len(seconds) * share)]:
        now += each
        pace.step(now)
    left = pace.left_s()
    return tuple((now + each) / sum(seconds) for each in (left.p10, left.p50, left.p90))


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2, 0.4, 0.8])
@pytest.mark.parametrize("loop", LOOPS)
def test_a_recorded_loop_is_forecast_within_5_per_cent(loop, share):
    low, middle, high = after(LOOPS[loop], share)
    begun = LOOPS[loop][: round(len(LOOPS[loop]) * share)]
    by_mean = sum(begun) / share / sum(LOOPS[loop])
    band = f"{low - 1:+.1%} to {high - 1:+.1%}"
    print(f"{loop:15} after {share:4.0%}: {middle - 1:+.1%} ({band}); by the mean {by_mean - 1:+.1%}")
    assert middle == pytest.approx(1, abs=0.05)

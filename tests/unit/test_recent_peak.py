"""The most power that a slow counter has shown lately. `tests/replay` has the bands that rely on it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_otel.meter.recent_peak import RecentPeak
from tests.fakes.clock import NS

PERIOD_NS = NS // 10


def test_it_is_forgotten_within_two_minutes():
    peak = RecentPeak()
    peak.note(NS, 30, PERIOD_NS, 0.1)
    for second in range(2, 200):
        peak.note(second * NS, 10, NS, 0.1)
        assert peak.watts == pytest.approx(300 if second <= 121 else 10), second


def test_after_a_pause_nothing_is_left_of_it():
    peak = RecentPeak()
    peak.note(NS, 30, PERIOD_NS, 0.1)
    peak.note(200 * NS, 199 * 10, 199 * NS, 0.1)
    assert peak.watts == pytest.approx(10)


@given(
    st.lists(st.integers(0, 700), min_size=1, max_size=30),
    st.lists(st.integers(1, 400), min_size=2, max_size=20),
)
def test_it_is_never_more_than_the_device_drew(watts, gaps_ms):
    """A counter that is updated each 100 ms, and readings at any time."""
    drawn_j = [0.0, *itertools.accumulate(each / 10 for each in watts)]
    peak = RecentPeak()
    before_ns = before_j = None
    for now_ns in itertools.accumulate(gap * 1_000_000 for gap in gaps_ms):
        updates = now_ns // PERIOD_NS
        joules = drawn_j[updates] if updates < len(drawn_j) else drawn_j[-1]
        if before_ns is not None:
            peak.note(now_ns, joules - before_j, now_ns - before_ns, 0.1)
        before_ns, before_j = now_ns, joules
    assert peak.watts <= max(watts) + 1e-9

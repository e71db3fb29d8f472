"""The joules of one device: examples in closed form, the rule for the accumulator, and its properties."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_otel.meter.timeline import Timeline
from tests.fakes.clock import NS, Clock
from tests.fakes.sensors import FakeSensor, SlowSensor

START_S = 1000
UJ = 1e6


def ns(seconds: float) -> int:
    return round((START_S + seconds) * NS)


def timeline(*readings: tuple[float, float | None], **sensor) -> Timeline:
    """A timeline after readings (seconds, raw reading or None for a failed one)."""
    made = Timeline(FakeSensor(Clock(), **sensor))
    feed(made, *readings)
    return made


def feed(to: Timeline, *readings: tuple[float, float | None]) -> None:
    """Enter readings, and publish after each, like the meter."""
    for seconds, raw in readings:
        if raw is None:
            to.miss(ns(seconds))
        else:
            to.observe(ns(seconds), raw)
        to.at(ns(seconds))


def at(of: Timeline, seconds: float) -> float:
    return of.at(ns(seconds))


class TestClosedForms:
    def test_constant(self):
        t = timeline(*((s, 100 * UJ * s) for s in range(37)))
        assert at(t, 36) == 3600

    def test_ramp_by_trapezoids(self):
        t = timeline(*((s, 20.0 * s) for s in range(11)), kind="power")
        assert at(t, 10) == 1000

    @pytest.mark.parametrize("phase", [0, 0.25, 0.9])
    def test_square_wave(self, phase):
        def joules(s):  # 200 W for 0.5 s, 40 W for 1.5 s, repeated
            periods, remainder = divmod(s, 2)
            return periods * 160 + 200 * min(remainder, 0.5) + 40 * max(0, remainder - 0.5)

        t = timeline(*((phase + s, joules(phase + s) * UJ) for s in range(21)))
        assert at(t, phase + 20) == pytest.approx(10 * 2 * (0.25 * 200 + 0.75 * 40), rel=1e-12)

    def test_wrap(self):
        assert at(timeline((0, 65_000), (10, 464), joules_per_unit=1.0, wrap=65_536), 10) == 1000

    def test_reset_of_a_counter_that_does_not_wrap(self):
        t = timeline((0, 9_000_000), (10, 50), joules_per_unit=1e-3)
        assert at(t, 10) == pytest.approx(0.05, rel=1e-12)
        assert set(t.flags) == {"reset"}


def test_between_readings_the_last_power_is_extrapolated_and_the_joules_never_fall():
    t = timeline((0, 0), (1, 100 * UJ))
    assert at(t, 1.5) == 150
    feed(t, (2, 120 * UJ))  # 80 W too many were assumed since the reading at 1 s
    assert at(t, 2) == 150
    feed(t, (3, 150 * UJ), (4, 180 * UJ))
    assert at(t, 4) == 180


def test_a_clock_that_steps_back_changes_nothing():
    t = timeline((0, 0), (2, 200 * UJ), (1, 500 * UJ))
    assert (at(t, 2), at(t, 1)) == (200, 200)


def test_an_overtaken_reading_is_dropped():
    t = timeline((0, 0), (1, 100 * UJ))
    t.observe(ns(2.1), 210 * UJ)
    t.observe(ns(2), 200 * UJ, took_ns=NS // 2)  # read earlier, entered later
    t.observe(ns(2.05), 900 * UJ)
    t.miss(ns(2.05))
    feed(t, (3, 300 * UJ))
    assert (at(t, 3), t.flags) == (300, {})


def test_a_reading_that_began_during_the_last_one_is_dropped():
    t = timeline((0, 0), (1, 100 * UJ))
    t.observe(ns(2), 200 * UJ, took_ns=NS // 2)
    t.observe(ns(2.4), 190 * UJ)
    feed(t, (3, 300 * UJ))
    assert (at(t, 3), t.flags) == (300, {})


@pytest.mark.parametrize(("raw", "joules"), [(250, 250), (200, 200), (150, 210)])
def test_a_reading_within_a_longer_one_counts_unless_the_counter_was_lower(raw, joules):
    """A thread that waits for its turn makes a reading long. Without the short one, 10 W would be extrapolated."""
    t = timeline((0, 0), (1, 190 * UJ))
    t.observe(ns(2), 200 * UJ, took_ns=2 * NS)
    t.observe(ns(3), raw * UJ, took_ns=NS // 100)
    assert at(t, 3) == pytest.approx(joules)


def test_a_slow_reading_is_plausible_up_to_the_moment_at_which_it_ended():
    most = {"power_bounds_w": (0.0, 100.0)}
    t = timeline((0, 0), (1, 100 * UJ), **most)
    t.observe(ns(2), 250 * UJ, took_ns=NS // 2)
    assert (at(t, 2), t.flags) == (250, {})
    t = timeline((0, 0), (1, 100 * UJ), **most)
    t.observe(ns(2), 250 * UJ, took_ns=NS // 4)
    assert t.flags.keys() == {"implausible", "gap"}


def test_a_counter_closes_its_gap_exactly():
    t = timeline((0, 0), (1, 100 * UJ), (2, None), (3, None))
    assert (at(t, 3), t.gap_s, t.filled_j) == (300, 2, 200)
    feed(t, (4, 500 * UJ))
    assert (at(t, 4), t.gap_s, t.filled_j) == (500, 0, 0)
    assert set(t.flags) == {"gap"}


def test_a_power_sensor_fills_its_gap_with_the_powers_on_both_sides():
    t = timeline((0, 100), (1, 100), (2, None), (3, None), (5, 300), kind="power")
    assert at(t, 5) == 100 + 4 * 200
    assert (t.gap_s, t.filled_j) == (4, 800)


def test_a_gap_after_idle_counts_as_filled():
    t = timeline((0, 0), (1, 0), (2, None), (3, 400), kind="power")
    assert at(t, 3) == 400
    assert (t.gap_s, t.filled_j) == (2, 400)


def test_an_implausible_reading_is_set_aside_when_the_next_agrees_with_the_old_count():
    t = timeline((0, 0), (1, 100 * UJ), (2, 90_000 * UJ), (3, 300 * UJ))
    assert (at(t, 3), t.gap_s, t.filled_j) == (300, 0, 0)
    assert set(t.flags) == {"implausible", "gap"}


def test_a_jump_is_a_gap_when_the_next_reading_confirms_it():
    t = timeline((0, 0), (1, 100 * UJ), (2, 90_000 * UJ), (3, 90_050 * UJ))
    assert at(t, 3) == 100 + 100 + 50
    assert (t.gap_s, t.filled_j) == (1, 100)
    feed(t, (4, 90_150 * UJ))
    assert at(t, 4) == 350


@pytest.mark.parametrize(("rise_j", "late_j"), [(300, 300 - 1), (700, 0)])
def test_a_jump_may_be_what_a_late_counter_owes(rise_j, late_j):
    most = {"power_bounds_w": (0.0, 120.0)}
    t = timeline((0, 0), (1, 100 * UJ), (1.01, (100 + rise_j) * UJ), (2, (200 + rise_j) * UJ), **most)
    assert at(t, 2) == pytest.approx(201)
    assert t.ambiguous_j == pytest.approx(late_j)


def test_a_wrapping_counter_that_steps_back_too_far_was_reset():
    t = timeline((0, 200_000 * UJ), (1, 30 * UJ), wrap=262_143 * UJ, power_bounds_w=(0.0, 1500.0))
    assert at(t, 1) == pytest.approx(30)
    assert set(t.flags) == {"reset"}
    assert t.ambiguous_j == pytest.approx(1470, rel=2e-3)


@pytest.mark.parametrize("kind", ["counter", "power"])
@pytest.mark.parametrize("raw", [math.nan, math.inf, -math.inf, -5.0, 1e30])
def test_nonsense_is_a_gap(kind, raw):
    t = timeline((0, 10), (1, 20), (2, raw), kind=kind)
    assert math.isfinite(at(t, 2))
    assert "gap" in t.flags


def test_an_implausible_first_power_is_not_extrapolated():
    t = timeline((0, 1e9), (1, 100), (2, 100), kind="power")
    assert at(t, 2) <= 3 * 100
    assert "gap" in t.flags


def test_a_first_reading_that_fails_opens_a_gap_which_is_filled_once_a_power_is_known():
    t = timeline((0, None), (10, 0), (11, 100 * UJ), (12, 200 * UJ))
    assert t.flags.keys() == {"gap"}
    assert t.gap_s == 10
    assert (at(t, 12), t.filled_j) == (1200, 1000)


def test_a_counter_that_jumps_at_its_second_reading_is_not_late_for_ever():
    for sensor in (FakeSensor(Clock()), SlowSensor(Clock(), watts=100)):
        t, unit = Timeline(sensor), 1 / sensor.joules_per_unit
        feed(t, (0, 0), (1, 1e9 * unit), (2, (1e9 + 100) * unit), (3, (1e9 + 200) * unit))
        assert abs(t.lag_j) <= 100 * 0.1
        assert t.flags.keys() == {"implausible", "gap"}


@pytest.mark.parametrize("after_s", [0.001, 0.01, 0.05, 0.1, 0.2, 0.3])
def test_a_slow_counter_that_stands_still_soon_after_a_reading_has_no_power_of_a_moment(after_s):
    """With 300 W, and steps of 30 J."""
    sensor = SlowSensor(Clock(), watts=300)
    t, stops_s = Timeline(sensor), 5 + after_s
    readings = sorted([*map(float, range(14)), *(s + 0.12 for s in range(6)), stops_s])
    feed(t, *((s, min(s, stops_s) // 0.1 * 0.1 * 300 / sensor.joules_per_unit) for s in readings))
    assert "stuck" in t.flags
    assert t.power_w < 2 * 300


def test_an_unchanged_counter_is_ignored_until_its_update_is_due():
    t = timeline((0, 0), (1, 100), (1.2, 100), joules_per_unit=1.0, update_period_s=0.1)
    assert at(t, 1.2) == 120
    assert not t.flags


def test_a_counter_that_stands_still_and_then_shows_all_has_lost_nothing():
    t = timeline(
        (0, 0), (1, 50 * UJ), *((1 + s / 10, 50 * UJ) for s in range(1, 20)), power_bounds_w=(0.0, 100.0)
    )
    assert at(t, 2.95) == 50
    feed(t, (2.96, 148 * UJ))
    assert (at(t, 2.96), t.power_w, t.flags) == (148, pytest.approx(50), {})


def test_a_counter_that_stands_still_may_have_stopped_soon_after_the_reading_before_its_last_change():
    t = timeline((0, 0), (1, 100 * UJ), (2, 120 * UJ))
    assert t.edge() == (120, 120, 20, ns(2), 0)
    feed(t, (2.01, 120 * UJ))
    assert t.edge() == (120, 120, 20, ns(1), NS)


def test_a_gap_after_the_counter_stood_still_is_filled_from_its_last_change():
    t = timeline((0, 0), (1, 50 * UJ), (2, 50 * UJ), (3, None))
    assert (at(t, 3), t.gap_s, t.filled_j) == (150, 2, 100)


def test_a_counter_that_sticks_at_once_is_filled_with_the_power_of_its_only_change():
    t = timeline((0, 0), (0.02, 1 * UJ), (1, 1 * UJ), (5.03, 1 * UJ))
    assert at(t, 6.02) == pytest.approx(1 + 6 * 50)


def test_a_counter_unchanged_for_seconds_is_stuck_and_the_time_is_a_gap():
    t = timeline((0, 0), (1, 100 * UJ), *((s, 100 * UJ) for s in range(2, 11)))
    assert "stuck" in t.flags
    assert (at(t, 10), t.gap_s, t.filled_j) == (1000, 9, 900)
    feed(t, (11, 1200 * UJ))
    assert (at(t, 11), t.gap_s, t.filled_j) == (1200, 0, 0)


@pytest.mark.parametrize(("stall_s", "lost_wraps"), [(170, 0), (180, 1), (360, 2)])
def test_after_a_stall_longer_than_a_wrap_takes_wraps_may_be_lost(stall_s, lost_wraps):
    wrap_j = 262_144  # 175 s at 1500 W
    t = timeline((0, 0), (1, 100), joules_per_unit=1.0, wrap=wrap_j)
    feed(t, (1 + stall_s, 400))
    assert at(t, 1 + stall_s) == 400
    assert t.ambiguous_j == lost_wraps * wrap_j
    assert ("ambiguous" in t.flags) == bool(lost_wraps)


# Powers as (nanoseconds, whole watts): the energy up to any moment is a whole number of nanojoules.
curves = st.lists(st.tuples(st.integers(1, 20 * NS), st.integers(1, 1500)), min_size=1, max_size=8)
instants = st.lists(st.integers(0, 40 * NS), min_size=2, max_size=20, unique=True).map(sorted)


def spent_nj(curve, until_ns: int) -> int:
    total = 0
    for duration_ns, watts in curve:
        total += watts * min(duration_ns, until_ns)
        until_ns -= min(duration_ns, until_ns)
    return total + curve[-1][1] * until_ns


def counter(**sensor) -> Timeline:
    return timeline(joules_per_unit=1e-9, **sensor)


@given(curves, instants)
def test_the_total_does_not_depend_on_when_it_is_read(curve, moments):
    t = counter()
    for moment in moments:
        t.observe(ns(0) + moment, spent_nj(curve, moment))
    first, last = (spent_nj(curve, m) for m in (moments[0], moments[-1]))
    assert t.at(ns(0) + moments[-1]) == pytest.approx((last - first) / NS, rel=1e-9)
    assert not t.flags


@given(curves, instants, st.integers(0, 10**14))
def test_wraps_at_any_moment_lose_nothing(curve, moments, offset):
    wrap = 65_536 * NS  # 43 s at 1500 W
    t = counter(wrap=wrap)
    for moment in moments:
        t.observe(ns(0) + moment, (offset + spent_nj(curve, moment)) % wrap)
    first, last = (spent_nj(curve, m) for m in (moments[0], moments[-1]))
    assert t.at(ns(0) + moments[-1]) == pytest.approx((last - first) / NS, rel=1e-9)
    assert not t.flags


@given(curves, instants, st.data())
def test_gaps_at_any_moment_lose_nothing_of_a_counter(curve, moments, data):
    t = counter()
    missed = data.draw(st.sets(st.sampled_from(moments[1:-1]))) if len(moments) > 2 else set()
    for moment in moments:
        if moment in missed:
            t.miss(ns(0) + moment)
        else:
            t.observe(ns(0) + moment, spent_nj(curve, moment))
    first, last = (spent_nj(curve, m) for m in (moments[0], moments[-1]))
    assert t.true_j == pytest.approx((last - first) / NS, rel=1e-9)
    assert (t.gap_s, t.filled_j) == (0, 0)
    assert ("gap" in t.flags) == bool(missed)


@given(curves, instants, st.integers(0, 40 * NS), st.integers(0, 40 * NS))
def test_a_counter_that_stands_still_for_any_time_loses_nothing(curve, moments, since, until):
    t = counter(power_bounds_w=(0.0, 1500.0))
    for moment in [*moments, 100 * NS]:
        t.observe(ns(0) + moment, spent_nj(curve, since if since < moment < until else moment))
    expected = spent_nj(curve, 100 * NS) - spent_nj(curve, moments[0])
    if since < moments[0] < until:
        expected += spent_nj(curve, moments[0]) - spent_nj(curve, since)
    assert t.true_j == pytest.approx(expected / NS, rel=1e-9)
    assert (t.gap_s, t.filled_j) == (0, 0)


@given(st.integers(1, 1500), instants, st.lists(st.integers(0, 40 * NS)).map(sorted))
def test_the_parts_of_any_partition_add_up(watts, readings, cuts):
    """At constant power also between readings, because extrapolation is then exact."""
    t = counter()
    readings = [0, NS, *(2 * NS + r for r in readings)]
    cuts = [2 * NS + c for c in cuts]
    parts, before = [], None
    for moment in sorted({*readings, *cuts}):
        if moment in readings:
            t.observe(ns(0) + moment, watts * moment)
        if moment in cuts or moment == readings[-1]:
            now = t.at(ns(0) + moment)
            parts.append(now - (before if before is not None else 0))
            before = now
            assert now == pytest.approx(watts * moment / NS, rel=1e-9)
    assert sum(parts) == pytest.approx(watts * max([readings[-1], *cuts]) / NS, rel=1e-9)


steps = st.lists(
    st.tuples(
        st.sampled_from(["observe", "miss", "at"]),
        st.integers(-NS, 60 * NS),
        st.integers(0, NS),
        st.floats() | st.floats(-1e6, 1e12) | st.integers(0, 10**7),
    ),
    max_size=40,
)


@given(steps, st.sampled_from(["counter", "power"]), st.sampled_from([None, 65_536e6]))
def test_any_readings_give_a_monotone_and_non_negative_timeline(steps, kind, wrap):
    t = timeline(kind=kind, wrap=wrap)
    now_ns, reached = ns(0), 0.0
    for step, later_ns, took_ns, raw in steps:
        now_ns += later_ns
        if step == "observe":
            t.observe(now_ns, raw, took_ns)
        elif step == "miss":
            t.miss(now_ns)
        joules = t.at(now_ns)
        assert math.isfinite(joules) and joules >= reached
        assert t.filled_j >= 0 and t.ambiguous_j >= 0 and t.gap_s >= 0
        reached = joules

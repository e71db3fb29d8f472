"""Energy by quarter-hour in a tag: nothing is lost between them, in sums, or in a text that gets too long."""

from __future__ import annotations

import calendar
import random
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_otel.mlflow.schema.hourly import (
    DAY,
    HOUR,
    MONTH,
    Quarters,
    added,
    interval,
    parsed,
    shares,
)

START = calendar.timegm((2026, 11, 30, 22, 30, 0))


def total(text):
    return sum(parsed(text).values())


def test_an_interval_over_quarters_is_divided_by_time():
    hours = Quarters(START)
    hours.spend(3.0, 5400)
    assert hours.text() == "2026-11-30T22:30=0.5,0.5,0.5,0.5,0.5,0.5"
    hours.spend(1.0, 5401)
    assert hours.text() == "2026-11-30T22:30=0.5,0.5,0.5,0.5,0.5,0.5,1"
    assert shares(hours.text(), MONTH) == {"2026-11": 0.75, "2026-12": 0.25}
    assert shares(hours.text(), DAY) == {"2026-11-30": 0.75, "2026-12-01": 0.25}
    assert shares("", DAY) == {}


def test_a_state_that_comes_late_adds_its_energy_and_no_time():
    hours = Quarters(START)
    hours.spend(1.0, 60)
    hours.spend(2.0, 50)
    assert hours.text() == "2026-11-30T22:30=3"


def test_a_short_pause_is_empty_places_and_a_long_one_begins_a_new_run():
    hours = Quarters(START)
    hours.spend(1.0, 900)
    hours.spend(0.0, 3600)
    hours.spend(1.0, 4500)
    text = added("2026-11-30T22:30=1,,,,1", "2026-12-03T10:15=2")
    assert text == "2026-11-30T22:30=1,,,,1 2026-12-03T10:15=2"
    assert parsed(text) == {"2026-11-30T22:30": 1.0, "2026-11-30T23:30": 1.0, "2026-12-03T10:15": 2.0}
    assert parsed(hours.text()) == {
        "2026-11-30T22:30": 1.0,
        "2026-11-30T22:45": 0.0,
        "2026-11-30T23:00": 0.0,
        "2026-11-30T23:15": 0.0,
        "2026-11-30T23:30": 1.0,
    }


def test_texts_of_earlier_versions_are_read():
    old = "2026-11-24T13=1.25 2026-11-24T14=0.5 2026-11-25=30 2026-12=900"
    assert parsed(old) == {"2026-11-24T13": 1.25, "2026-11-24T14": 0.5, "2026-11-25": 30, "2026-12": 900}
    assert added(old, "") == "2026-11-24T13=1.25,0.5 2026-11-25=30 2026-12=900"


@pytest.mark.parametrize(
    "text",
    [
        "9999-99-99T99:15=1,2",
        "2026-02-30=1,2",
        "9999-12-31=1,2",
        "2026-11=1,2",
        "2026-11-24T13:20=1",
        "2026-11=x",
    ],
)
def test_runs_at_impossible_times_are_left_out(text):
    assert set(parsed(text)) <= {"9999-12-31"}


def test_the_interval_of_an_item():
    midnight = datetime(2026, 12, 1, tzinfo=timezone.utc)
    assert interval("2026-11-30T23:45") == (midnight - timedelta(minutes=15), midnight)
    assert interval("2026-11-30T23") == (midnight - timedelta(hours=1), midnight)
    assert interval("2026-11-30") == (midnight - timedelta(days=1), midnight)
    assert interval("2026-12") == (midnight, datetime(2027, 1, 1, tzinfo=timezone.utc))
    with pytest.raises(ValueError, match="month"):
        interval("2026-13")
    with pytest.raises(ValueError, match="no end"):
        interval("9999-12-31")


@pytest.mark.parametrize(("days", "length"), [(7, 16), (30, HOUR), (100, DAY)])
def test_a_run_of_a_month_keeps_its_hours_and_one_of_a_week_its_quarters(days, length):
    draws = random.Random(1)
    hours, wh = Quarters(START), 0.0
    for quarter in range(96 * days):
        amount = draws.uniform(0.1, 200)
        hours.spend(amount, 900 * (quarter + 1))
        wh += amount
    text = hours.text()
    assert min(len(when) for when in parsed(text)) == length and len(text) <= 8000
    assert total(text) == pytest.approx(wh, rel=1e-9)


def test_the_number_of_hours_in_memory_is_bounded():
    hours = Quarters(START)
    for day in range(1, 400):
        hours.spend(24.0, day * 86400)
    assert len(hours._wh) <= 1000 + 96
    assert total(hours.text()) == pytest.approx(399 * 24, rel=1e-9)


def test_a_text_of_many_centuries_is_cut_between_two_months():
    months = " ".join(f"{year}-{month:02}=1.25" for year in range(1000, 2000) for month in range(1, 13))
    text = added(months, "")
    assert len(text) <= 8000 and set(parsed(text).values()) == {1.25}


def test_two_segments_add_up():
    assert added("2026-11-30T22=1", "2026-11-30T22=0.5 2026-12-01T00=1") == "2026-11-30T22=1.5,,1"
    assert added("", "2026-11=5") == "2026-11=5"


@given(
    st.lists(
        # A part of the smallest number there is would be nothing.
        st.tuples(st.just(0.0) | st.floats(1e-12, 1000), st.floats(1, 40 * 86400)),
        min_size=1,
        max_size=30,
    )
)
def test_nothing_is_lost_and_the_tag_holds_it(spent):
    hours, now, wh = Quarters(START), 0.0, 0.0
    for amount, seconds in spent:
        now += seconds
        hours.spend(amount, now)
        wh += amount
    text = hours.text()
    assert len(text) <= 8000
    assert total(text) == pytest.approx(wh, rel=1e-9, abs=1e-17)
    assert not wh or sum(shares(text, MONTH).values()) == pytest.approx(1)
    assert total(added(text, text)) == pytest.approx(2 * total(text), rel=1e-9, abs=1e-17)

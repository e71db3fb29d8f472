"""Energy by hour in a tag: nothing is lost between hours, in sums, or in a text that gets too long."""

from __future__ import annotations

import calendar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_otel.mlflow.schema.hourly import DAY, MONTH, Hours, added, parsed, shares

START = calendar.timegm((2026, 11, 30, 22, 30, 0))


def total(text):
    return sum(parsed(text).values())


def test_an_interval_over_hours_is_divided_by_time():
    hours = Hours(START)
    hours.spend(3.0, 5400)
    assert hours.text() == "2026-11-30T22=1 2026-11-30T23=2"
    hours.spend(1.0, 5401)
    assert hours.text() == "2026-11-30T22=1 2026-11-30T23=2 2026-12-01T00=1"
    assert shares(hours.text(), MONTH) == {"2026-11": 0.75, "2026-12": 0.25}
    assert shares(hours.text(), DAY) == {"2026-11-30": 0.75, "2026-12-01": 0.25}
    assert shares("", DAY) == {}


def test_a_state_that_comes_late_adds_its_energy_and_no_time():
    hours = Hours(START)
    hours.spend(1.0, 60)
    hours.spend(2.0, 50)
    assert hours.text() == "2026-11-30T22=3"


def test_the_number_of_hours_in_memory_is_bounded():
    hours = Hours(START)
    for day in range(1, 400):
        hours.spend(24.0, day * 86400)
    assert len(hours._wh) <= 1000 + 24
    assert total(hours.text()) == pytest.approx(399 * 24, rel=1e-5)


def test_a_text_of_many_centuries_is_cut_between_two_months():
    months = " ".join(f"{year}-{month:02}=1.25" for year in range(1000, 2000) for month in range(1, 13))
    text = added(months, "")
    assert len(text) <= 8000 and set(parsed(text).values()) == {1.25}


def test_two_segments_add_up():
    assert (
        added("2026-11-30T22=1", "2026-11-30T22=0.5 2026-12-01T00=1") == "2026-11-30T22=1.5 2026-12-01T00=1"
    )
    assert added("", "2026-11=5") == "2026-11=5"


@given(
    st.lists(
        st.tuples(st.floats(0, 1000), st.floats(1, 40 * 86400)),
        min_size=1,
        max_size=30,
    )
)
def test_nothing_is_lost_and_the_tag_holds_it(spent):
    hours, now, wh = Hours(START), 0.0, 0.0
    for amount, seconds in spent:
        now += seconds
        hours.spend(amount, now)
        wh += amount
    text = hours.text()
    assert len(text) <= 8000
    assert total(text) == pytest.approx(wh, rel=1e-5, abs=1e-9)
    assert not wh or sum(shares(text, MONTH).values()) == pytest.approx(1)
    assert total(added(text, text)) == pytest.approx(2 * total(text), rel=1e-5)

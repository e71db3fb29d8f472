"""Student's t against scipy."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_otel.lifecycle import student

stats = pytest.importorskip("scipy.stats")
DF = st.floats(0.5, 1e5)


@given(st.floats(-50, 50), DF)
def test_the_distribution_is_that_of_scipy(t, df):
    assert student.cdf(t, df) == pytest.approx(stats.t.cdf(t, df), abs=1e-10)


@given(st.floats(0.55, 0.9999), DF)
def test_quantiles_are_those_of_scipy(probability, df):
    assert student.quantile(probability, df) == pytest.approx(stats.t.ppf(probability, df), rel=1e-8)
    assert student.quantile(1 - probability, df) == pytest.approx(
        -student.quantile(probability, df), rel=1e-6
    )


@pytest.mark.parametrize(
    ("probability", "df", "t"), [(0.975, 1, 12.7062047), (0.975, 4, 2.7764451), (0.8, 10, 0.8790578)]
)
def test_tables(probability, df, t):
    assert student.quantile(probability, df) == pytest.approx(t, rel=1e-7)


def test_many_degrees_of_freedom_are_the_normal_distribution():
    assert student.quantile(0.975, math.inf) == pytest.approx(1.959963985, rel=1e-9)
    assert student.quantile(0.975, 1e6) == pytest.approx(student.quantile(0.975, 1e6 - 1), rel=2e-6)
    assert student.cdf(1.96, 1e9) == pytest.approx(0.9750021, abs=1e-7)


@pytest.mark.parametrize(("probability", "df"), [(0, 3), (1, 3), (0.5, 0), (0.5, math.nan), (math.nan, 3)])
def test_impossible_quantiles(probability, df):
    with pytest.raises(ValueError, match="no t quantile"):
        student.quantile(probability, df)

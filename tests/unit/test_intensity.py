"""Carbon intensities that count different things are never combined."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_otel.carbon.intensity import Intensity, MixedSignals, Signal, mean, same_signal, year_of
from tests.fakes.grid import grid_of

SIGNALS = [
    Signal(kind, method, scope, basis)
    for kind in ("average", "marginal", "residual")
    for method in ("location", "market")
    for scope in ("direct", "lifecycle", "upstream")
    for basis in ("production", "consumption")
]
VALUES = st.lists(st.tuples(st.floats(0, 2000), st.floats(0.001, 1e6)), min_size=1, max_size=20)


def of(signal: Signal, g_per_kwh: float = 100.0) -> Intensity:
    return replace(grid_of(g_per_kwh), signal=signal)


@pytest.mark.parametrize(("one", "other"), [*itertools.permutations(SIGNALS, 2)])
def test_two_signals_are_neither_averaged_nor_ranked(one, other):
    values = [of(one), of(other, 50.0)]
    for combine in (mean, same_signal, sorted, min, max):
        with pytest.raises(MixedSignals, match="different quantities"):
            combine(values)


def test_intensities_are_not_added():
    with pytest.raises(TypeError):
        of(SIGNALS[0]) + of(SIGNALS[0])


@given(VALUES)
def test_a_mean_is_weighted_by_energy_and_lies_between_its_values(pairs):
    values, weights = [grid_of(g) for g, _ in pairs], [weight for _, weight in pairs]
    found = mean(values, weights)
    expected = math.fsum(g * weight for g, weight in pairs) / math.fsum(weights)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert min(v.g_per_kwh for v in values) - 1e-9 <= found <= max(v.g_per_kwh for v in values) + 1e-9


@given(st.floats(0, 2000), st.lists(st.floats(0.001, 1e6), min_size=1, max_size=20))
def test_a_constant_intensity_is_its_own_mean(g_per_kwh, weights):
    assert mean([grid_of(g_per_kwh)] * len(weights), weights) == pytest.approx(g_per_kwh, rel=1e-12)


def test_the_cleaner_grid_is_the_smaller_one():
    assert [value.g_per_kwh for value in sorted([grid_of(3.0), grid_of(1.0), grid_of(2.0)])] == [
        1.0,
        2.0,
        3.0,
    ]


@pytest.mark.parametrize("weights", [[], [1.0], [0.0, 0.0], [-1.0, 2.0]])
def test_weights_without_a_mean_are_refused(weights):
    with pytest.raises(ValueError, match="one weight"):
        mean([grid_of(1.0), grid_of(2.0)], weights)


def test_no_values_have_no_mean():
    with pytest.raises(ValueError, match="no intensities"):
        mean([])


@pytest.mark.parametrize("g_per_kwh", [-1.0, math.nan, math.inf])
def test_what_is_no_intensity_is_refused(g_per_kwh):
    with pytest.raises(ValueError, match="carbon intensity"):
        grid_of(g_per_kwh)


def test_a_marginal_intensity_may_be_negative():
    assert replace(of(Signal("marginal")), g_per_kwh=-5.0).g_per_kwh == -5.0


def test_an_interval_has_a_time_zone_and_a_length():
    start, _ = year_of(2024)
    for wrong in ({"start": datetime(2024, 1, 1)}, {"end": start}, {"end": start - timedelta(hours=1)}):  # noqa: DTZ001
        with pytest.raises(ValueError, match="interval"):
            replace(grid_of(1.0), **wrong)


def test_the_year_is_that_of_the_start():
    assert grid_of(1.0).year == 2024
    assert year_of(2024) == (
        datetime(2024, 1, 1, tzinfo=timezone.utc),
        datetime(2025, 1, 1, tzinfo=timezone.utc),
    )

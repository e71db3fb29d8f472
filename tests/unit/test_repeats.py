"""Intervals of differences and numbers of repeats: against scipy, closed forms, and simulations."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_otel.lifecycle.repeats import (
    MOST_REPEATS,
    detectable,
    difference,
    repeats_needed,
    variance,
)

VALUES = st.lists(st.floats(-100, 100), min_size=2, max_size=6)


def drawn(generator: random.Random, count: int, mean: float, spread: float) -> list[float]:
    return [generator.gauss(mean, spread) for _ in range(count)]


def test_the_interval_is_welchs():
    stats = pytest.importorskip("scipy.stats")
    base, variant = [1.0, 1.1, 0.9, 1.05], [2.0, 2.4, 1.7]
    expected = stats.ttest_ind(variant, base, equal_var=False).confidence_interval(0.95)
    found = difference(base, variant)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


@given(VALUES, VALUES)
def test_exchanging_the_groups_inverts_the_difference(base, variant):
    one, two = difference(base, variant, 0.1), difference(variant, base, 0.1)
    assert (one.value, one.low, one.high) == pytest.approx((-two.value, -two.high, -two.low))
    assert one.low <= one.value <= one.high


@given(VALUES, VALUES, st.floats(-10, 10))
def test_a_common_shift_cancels(base, variant, shift):
    """On logarithms: a common factor, such as the error of a meter, cancels in the ratio."""
    moved = difference([value + shift for value in base], [value + shift for value in variant])
    found = difference(base, variant)
    assert (moved.value, moved.low, moved.high) == pytest.approx(
        (found.value, found.low, found.high), abs=1e-6
    )


@pytest.mark.parametrize(("ours", "theirs"), [(3, 3), (5, 5), (3, 8)])
@pytest.mark.parametrize("spread", [0.02, 0.08])
def test_the_interval_has_the_truth_in_95_of_100_cases(ours, theirs, spread):
    generator, cases = random.Random(7), 2000
    within = sum(
        difference(drawn(generator, ours, 0, 0.04), drawn(generator, theirs, -0.3, spread)).has(-0.3)
        for _ in range(cases)
    )
    # Welch's degrees of freedom are an approximation, which is best for groups of equal size.
    assert (0.93 if ours == theirs else 0.92) <= within / cases <= 0.985


def test_a_systematic_error_does_not_vanish_with_repeats():
    generator = random.Random(1)
    base, variant = drawn(generator, 5000, 0, 0.01), drawn(generator, 5000, 0, 0.01)
    found = difference(base, variant, math.log(1.2))
    assert (found.high - found.low) / 2 == pytest.approx(math.log(1.2), rel=1e-3)


@pytest.mark.parametrize("effect", [0.05, 0.1, 0.25])
def test_as_many_repeats_show_the_difference_in_4_cases_of_5(effect):
    """Groups with exactly these spreads give a number; so many repeats are then drawn."""
    spreads = 0.05, 0.1
    groups = [
        [mean - spread / math.sqrt(2), mean + spread / math.sqrt(2)]
        for mean, spread in zip((0.0, effect), spreads, strict=True)
    ]
    needed = repeats_needed(*groups)
    generator, cases = random.Random(3), 1500
    shown = sum(
        difference(drawn(generator, needed, 0, spreads[0]), drawn(generator, needed, effect, spreads[1])).low
        > 0
        for _ in range(cases)
    )
    assert 0.76 <= shown / cases <= 0.92


def test_the_number_of_repeats_is_the_least_that_suffices():
    base, variant = [0.0, 0.1], [0.05, 0.15]
    needed = repeats_needed(base, variant)
    same = [variance(group) for group in (base, variant)]

    def least(count: int) -> float:
        """What `count` repeats with these spreads detect."""
        groups = [[math.sqrt(each) * sign for sign in (1, -1)] * (count // 2) for each in same]
        factor = [math.sqrt(each / variance(group)) for each, group in zip(same, groups, strict=True)]
        return detectable(*([value * f for value in group] for group, f in zip(groups, factor, strict=True)))

    assert needed % 2 == 1 or least(needed) <= 0.05 * (1 + 1e-9)
    assert least(needed - needed % 2 - 2) > 0.05


@given(VALUES, VALUES, st.floats(0, 1))
def test_more_systematic_error_needs_no_fewer_repeats(base, variant, systematic):
    plain, more = repeats_needed(base, variant), repeats_needed(base, variant, systematic)
    assert more is None or (plain is not None and plain <= more)


def test_no_number_of_repeats():
    assert repeats_needed([1.0], [2.0, 2.1]) is None, "a spread is unknown"
    assert repeats_needed([1.0, 1.1], [1.0, 1.1]) is None, "there is no difference"
    assert repeats_needed([1.0, 1.1], [1.15, 1.25], 0.2) is None, "the systematic error is larger"
    assert repeats_needed([0.0, 1.0], [0.0, 1.0 + 1e-4]) is None, f"more than {MOST_REPEATS}"
    assert repeats_needed([1.0, 1.0], [2.0, 2.0]) == 2


def test_single_runs_have_no_limits():
    found = difference([1.0], [2.0, 2.1])
    assert (found.value, found.low, found.high) == (pytest.approx(1.05), -math.inf, math.inf)
    assert detectable([1.0], [2.0, 2.1]) == math.inf
    assert variance([1.0]) is None


def test_equal_repeats_have_an_interval_of_no_width():
    found = difference([1.0, 1.0], [3.0, 3.0])
    assert (found.low, found.high) == (2.0, 2.0)

"""Student's t distribution for any degrees of freedom above 0, without scipy.

Its distribution function is a regularised incomplete beta function, here as the continued fraction of
Abramowitz and Stegun, 26.5.8 and 26.7.1, by the method of Lentz.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Final

# From here on, the normal distribution differs by less than 1e-6 of the quantile.
_NORMAL_FROM: Final = 1e6
_TINY: Final = 1e-300
_PRECISION: Final = 1e-14
_MOST_TERMS: Final = 100_000
_MOST_STEPS: Final = 500


def cdf(t: float, df: float) -> float:
    """The probability that a value with `df` degrees of freedom is at most `t`."""
    if df >= _NORMAL_FROM:
        return NormalDist().cdf(t)
    if t * t < df:  # near the middle, where the argument of the other form is near 1 and loses digits
        within = _incomplete_beta(0.5, df / 2, t * t / (df + t * t)) / 2
        return 0.5 + math.copysign(within, t)
    beyond = _incomplete_beta(df / 2, 0.5, df / (df + t * t)) / 2
    return 1 - beyond if t > 0 else beyond


def quantile(probability: float, df: float) -> float:
    """The value that a variable with `df` degrees of freedom does not exceed with this probability.

    Raises ValueError for a probability outside of (0, 1), or degrees of freedom that are not above 0.
    """
    if not 0 < probability < 1 or not df > 0:
        raise ValueError(f"there is no t quantile of {probability} with {df} degrees of freedom")
    if df >= _NORMAL_FROM:
        return NormalDist().inv_cdf(probability)
    if probability < 0.5:
        return -quantile(1 - probability, df)
    if probability == 0.5:
        return 0.0
    # Newton's steps from the quantile of the normal distribution, which is lower: above 0 the distribution
    # function is concave, so that no step goes too far.
    t = NormalDist().inv_cdf(probability)
    for _ in range(_MOST_STEPS):
        step = (probability - cdf(t, df)) / _density(t, df)
        t += step
        if abs(step) <= _PRECISION * t:
            break
    return t


def _density(t: float, df: float) -> float:
    log_front = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - math.log(df * math.pi) / 2
    return math.exp(log_front - (df + 1) / 2 * math.log1p(t * t / df))


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b)."""
    if x <= 0 or x >= 1:
        return min(1.0, max(0.0, x))
    if x > (a + 1) / (a + b + 2):  # where the fraction of the complement has fewer terms
        return 1 - _incomplete_beta(b, a, 1 - x)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    c, d = 1.0, 1 / _away_from_zero(1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, _MOST_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / _away_from_zero(1 + term * d)
            c = _away_from_zero(1 + term / c)
            fraction *= c * d
        if abs(c * d - 1) < _PRECISION:
            break
    return math.exp(log_front) * fraction / a


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY

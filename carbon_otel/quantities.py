"""Energy, emissions, power and time as people read them: `12.4 Wh (11.8 to 13.1)`, `3.2 mg`, `4 min 12 s`.

Every text for people is made here, in a unit from µJ to TWh or from µg to Mt. Three digits are significant,
and two where the band is wider than half of the figure. Files and interfaces have full precision.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from carbon_otel.units import J_PER_KWH, J_PER_WH, S_PER_DAY, S_PER_H

_DIGITS: Final = 3
_DIGITS_IN_WIDE_BAND: Final = 2
_WIDE: Final = 0.5
_S_PER_MIN: Final = 60.0


class Unit(NamedTuple):
    """A unit such as `Wh`: how many joules, grams or watts it is, and from how many on it is used."""

    name: str
    size: float
    begin: float

    def number(self, value: float, digits: int = _DIGITS) -> str:
        """A value in joules, grams or watts as a number of this unit, without the unit's name."""
        return "unknown" if math.isnan(value) else _significant(value / self.size, digits)


# Watt-hours begin where joules would have four digits.
ENERGY: Final = (
    Unit("J", 1.0, 1.0),
    Unit("mJ", 1e-3, 1e-3),
    Unit("µJ", 1e-6, 0.0),
    Unit("Wh", J_PER_WH, 1e3),
    Unit("kWh", J_PER_KWH, J_PER_KWH),
    Unit("MWh", 1e3 * J_PER_KWH, 1e3 * J_PER_KWH),
    Unit("GWh", 1e6 * J_PER_KWH, 1e6 * J_PER_KWH),
    Unit("TWh", 1e9 * J_PER_KWH, 1e9 * J_PER_KWH),
)
EMISSIONS: Final = tuple(
    Unit(name, size, size if name != "µg" else 0.0)
    for name, size in (
        ("g", 1.0),
        ("mg", 1e-3),
        ("µg", 1e-6),
        ("kg", 1e3),
        ("t", 1e6),
        ("kt", 1e9),
        ("Mt", 1e12),
    )
)
POWER: Final = tuple(
    Unit(name, size, size if name != "µW" else 0.0)
    for name, size in (("W", 1.0), ("mW", 1e-3), ("µW", 1e-6), ("kW", 1e3), ("MW", 1e6), ("GW", 1e9))
)


def unit(units: tuple[Unit, ...], *values: float) -> Unit:
    """The unit for the largest of `values`, for all figures of a row or an axis; the first one for zero."""
    largest = max((_rounded(abs(value), _DIGITS) for value in values if math.isfinite(value)), default=0.0)
    if not largest:
        return units[0]
    # A rounding error must not keep 1 Wh, as a number of joules, below the begin of its unit.
    return max((each for each in units if each.begin <= largest * (1 + 1e-9)), key=lambda each: each.begin)


def text(units: tuple[Unit, ...], value: float, low: float | None = None, high: float | None = None) -> str:
    """A value in joules, grams or watts as text, with its band if there is one.

    NaN is `unknown`. A `high` of infinity is that of a lower bound: `12.4 Wh (at least 11.8)`.
    """
    if math.isnan(value):
        return "unknown"
    chosen = unit(units, value)
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return f"{chosen.number(value)} {chosen.name}"
    digits = _DIGITS_IN_WIDE_BAND if high - low > _WIDE * abs(value) else _DIGITS
    if math.isinf(high):
        band = f"at least {chosen.number(low, digits)}"
    else:
        band = f"{chosen.number(low, digits)} to {chosen.number(high, digits)}"
    return f"{chosen.number(value, digits)} {chosen.name} ({band})"


def energy(joules: float, low_j: float | None = None, high_j: float | None = None) -> str:
    """Joules as text, with their band if there is one: `12.4 Wh (11.8 to 13.1)`."""
    return text(ENERGY, joules, low_j, high_j)


def emissions(grams: float, low_g: float | None = None, high_g: float | None = None) -> str:
    """Grams of CO2 equivalent as text, with their band if there is one: `3.2 mg (2.9 to 3.5)`."""
    return text(EMISSIONS, grams, low_g, high_g)


def power(watts: float) -> str:
    """Watts as text: `45.1 W`."""
    return text(POWER, watts)


def duration(seconds: float) -> str:
    """Seconds as text: `35 ms`, `8.3 s`, `4 min 12 s`, `2 h 5 min`, `3 d 4 h`."""
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 1:
        return f"{_significant(seconds * 1e3, _DIGITS_IN_WIDE_BAND)} ms" if seconds > 0 else "0 s"
    if seconds < _S_PER_MIN - 0.05:
        return f"{seconds:.1f} s"
    for large, size, small, part in (
        ("min", _S_PER_MIN, "s", 1.0),
        ("h", S_PER_H, "min", _S_PER_MIN),
        ("d", S_PER_DAY, "h", S_PER_H),
    ):
        whole, rest = divmod(round(seconds / part), round(size / part))
        if whole < {"min": 60, "h": 24}.get(large, math.inf):
            return f"{whole} {large}" + (f" {rest} {small}" if rest else "")
    raise AssertionError(seconds)


def _rounded(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")


def _significant(value: float, digits: int) -> str:
    """The number without an exponent: `0.00123`, `45.1`, `12,300`; whole digits are never cut."""
    value = _rounded(value, max(digits, len(f"{abs(value):.0f}"))) if math.isfinite(value) else value
    if value == 0 or not math.isfinite(value):
        return f"{value:.0f}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"

"""Energy, emissions, power, time and water as people read them: `12.4 Wh (11.8 to 13.1)`, `3.2 mg`, `4 min 12 s`.

Every text for people is made here, in a unit from µJ to TWh or from µg to Mt. Three digits are significant,
and two where the band is wider than half of the figure. Files and interfaces have full precision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from carbon_otel.units import J_PER_KWH, J_PER_WH, S_PER_DAY, S_PER_H

_DIGITS: Final = 3
_DIGITS_IN_WIDE_BAND: Final = 2
_WIDE: Final = 0.5
_NEGLIGIBLE: Final = 1e-3
# The exponent below which a number is written with it.
_TINY: Final = -9
_S_PER_MIN: Final = 60.0


class Unit(NamedTuple):
    """A unit such as `Wh`: how many joules, grams or watts it is, and from how many on it is used."""

    name: str
    size: float
    begin: float

    def number(self, value: float, digits: int = _DIGITS) -> str:
        """A value in joules, grams or watts as a number of this unit, without the unit's name."""
        return "unknown" if math.isnan(value) else _significant(value / self.size, digits)


# The largest first. Watt-hours begin where joules would have four digits.
ENERGY: Final = (
    Unit("TWh", 1e9 * J_PER_KWH, 1e9 * J_PER_KWH),
    Unit("GWh", 1e6 * J_PER_KWH, 1e6 * J_PER_KWH),
    Unit("MWh", 1e3 * J_PER_KWH, 1e3 * J_PER_KWH),
    Unit("kWh", J_PER_KWH, J_PER_KWH),
    Unit("Wh", J_PER_WH, 1e3),
    Unit("J", 1.0, 1.0),
    Unit("mJ", 1e-3, 1e-3),
    Unit("µJ", 1e-6, 0.0),
)
EMISSIONS: Final = (
    Unit("Mt", 1e12, 1e12),
    Unit("kt", 1e9, 1e9),
    Unit("t", 1e6, 1e6),
    Unit("kg", 1e3, 1e3),
    Unit("g", 1.0, 1.0),
    Unit("mg", 1e-3, 1e-3),
    Unit("µg", 1e-6, 0.0),
)
POWER: Final = (
    Unit("GW", 1e9, 1e9),
    Unit("MW", 1e6, 1e6),
    Unit("kW", 1e3, 1e3),
    Unit("W", 1.0, 1.0),
    Unit("mW", 1e-3, 1e-3),
    Unit("µW", 1e-6, 0.0),
)
VOLUME: Final = (
    Unit("m³", 1e3, 1e3),
    Unit("L", 1.0, 1.0),
    Unit("mL", 1e-3, 1e-3),
    Unit("µL", 1e-6, 0.0),
)


def unit(units: tuple[Unit, ...], *values: float) -> Unit:
    """The unit for the largest of `values`, for all figures of a row or an axis.

    Zero and what is tiny are in J, g, W or L.
    """
    largest = max([abs(value) for value in values if math.isfinite(value)], default=0.0)
    # As it is shown: 999.6 J are 1,000 J. A rounding error must not keep 1 Wh below the begin of its unit.
    shown = _rounded(largest, _DIGITS) * (1 + 1e-9)
    if shown < units[-1].size / 1e3:
        return next(each for each in units if each.size == 1)
    return next(each for each in units if shown >= each.begin)


def column(units: tuple[Unit, ...], values: Sequence[float]) -> list[str]:
    """Values as texts of one unit, or each in its own if one of them is below a thousandth of this unit."""
    chosen = unit(units, *values)
    if any(0 < abs(value) < chosen.size / 1e3 for value in values):
        return [text(units, value) for value in values]
    return ["unknown" if math.isnan(value) else f"{chosen.number(value)} {chosen.name}" for value in values]


def digits(value: float, low: float, high: float) -> int:
    """How many digits of a value are significant, and those of its band."""
    return _DIGITS_IN_WIDE_BAND if high - low > _WIDE * abs(value) else _DIGITS


def text(
    units: tuple[Unit, ...],
    value: float,
    low: float | None = None,
    high: float | None = None,
    *,
    of: str = "",
) -> str:
    """A value in joules, grams, watts or litres as text, with its band if there is one. `of` follows its unit.

    NaN is `unknown`. A `high` of infinity is that of a lower bound: `12.4 Wh (at least 11.8)`.
    """
    if math.isnan(value):
        return "unknown"
    chosen = unit(units, value)
    name = f"{chosen.name} {of}" if of else chosen.name
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return f"{chosen.number(value)} {name}"
    known = digits(value, low, high)
    # Of 29 mg, 0.00039 mg are the rounding of the sums, not a figure.
    low = 0.0 if abs(low) < _NEGLIGIBLE * abs(value) else low
    if math.isinf(high):
        band = f"at least {chosen.number(low, known)}"
    else:
        band = f"{chosen.number(low, known)} to {chosen.number(high, known)}"
    return f"{chosen.number(value, known)} {name} ({band})"


def energy(joules: float, low_j: float | None = None, high_j: float | None = None) -> str:
    """Joules as text, with their band if there is one: `12.4 Wh (11.8 to 13.1)`."""
    return text(ENERGY, joules, low_j, high_j)


def watt_hours(wh: float, low_wh: float | None = None, high_wh: float | None = None) -> str:
    """Watt-hours as `energy` writes them."""
    low_j, high_j = (None if bound is None else bound * J_PER_WH for bound in (low_wh, high_wh))
    return energy(wh * J_PER_WH, low_j, high_j)


def emissions(grams: float, low_g: float | None = None, high_g: float | None = None, *, of: str = "") -> str:
    """Grams of CO2 equivalent as text, with their band if there is one.

    `3.2 mg (2.9 to 3.5)`, or with `of="CO2e"`, `3.2 mg CO2e (2.9 to 3.5)`.
    """
    return text(EMISSIONS, grams, low_g, high_g, of=of)


def power(watts: float) -> str:
    """Watts as text: `45.1 W`."""
    return text(POWER, watts)


def volume(litres: float, low_l: float | None = None, high_l: float | None = None) -> str:
    """Litres as text, with their band if there is one: `1.20 L (0.80 to 3.1)`."""
    return text(VOLUME, litres, low_l, high_l)


def duration(seconds: float) -> str:
    """Seconds as text: `35 ms`, `8.3 s`, `4 min 12 s`, `2 h 5 min`, `3 d 4 h`."""
    if not math.isfinite(seconds):
        return "unknown"
    if seconds <= 0:
        return "0 s"
    for name, size in (("µs", 1e-6), ("ms", 1e-3)):
        if seconds < 999.5 * size:
            return f"{_significant(seconds / size, _DIGITS_IN_WIDE_BAND)} {name}"
    if seconds < _S_PER_MIN - 0.05:
        return f"{seconds:.1f} s"
    for large, size, small, part, end in (
        ("min", _S_PER_MIN, "s", 1.0, S_PER_H),
        ("h", S_PER_H, "min", _S_PER_MIN, S_PER_DAY),
        ("d", S_PER_DAY, "h", S_PER_H, math.inf),
    ):
        parts = round(seconds / part)
        if parts * part < end:
            whole, rest = divmod(parts, round(size / part))
            return f"{whole:,} {large}" + (f" {rest} {small}" if rest else "")
    raise AssertionError(seconds)


def _rounded(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")


def _significant(value: float, digits: int) -> str:
    """The number: `0.00123`, `45.1`, `12,300`, `1.23e-16` if it is tiny; whole digits are never cut."""
    if value == 0 or not math.isfinite(value):
        return f"{value:.0f}"
    # The exponent of the rounded value: 9.996 has two digits before the point.
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])
    return f"{value:,.{max(0, digits - 1 - exponent)}f}" if exponent >= _TINY else f"{value:.{digits - 1}e}"

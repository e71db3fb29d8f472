"""Where the marks of charts are, in percent of their box, and the numbers on their axes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from carbon_otel.quantities import EMISSIONS, ENERGY, Unit, unit
from carbon_otel.units import J_PER_WH

_MOST_TICKS: Final = 5
_ROOM: Final = 1.05  # a mark does not touch the edge


class Scale(NamedTuple):
    """One unit for all figures of a column or an axis."""

    unit: Unit
    factor: float

    @property
    def name(self) -> str:
        """The name of the unit, such as `kWh`."""
        return self.unit.name

    def number(self, value: float) -> str:
        """A value in Wh or grams as a number of the unit."""
        return self.unit.number(value * self.factor)


class Mark(NamedTuple):
    """A place on an axis in percent, with its text."""

    percent: float
    text: str


class Bar(NamedTuple):
    """A bar of a chart: what it stands for, its length in percent and its value."""

    name: str
    percent: float
    value: float


class Range(NamedTuple):
    """A value with its band, in percent of an axis; `high` is 100 where there is no upper end."""

    value: float
    low: float
    high: float


def energy_scale(watt_hours: Iterable[float]) -> Scale:
    """The unit for the largest of some energies in Wh."""
    return Scale(unit(ENERGY, *(wh * J_PER_WH for wh in watt_hours)), J_PER_WH)


def emissions_scale(grams: Iterable[float]) -> Scale:
    """The unit for the largest of some emissions in grams."""
    return Scale(unit(EMISSIONS, *grams), 1.0)


def parts(values: Sequence[float]) -> list[float]:
    """The percent of each of their sum."""
    total = sum(values)
    return [100 * value / total if total > 0 else 0.0 for value in values]


def bars(values: Sequence[tuple[str, float]]) -> list[Bar]:
    """Bars of which the longest has 100 percent."""
    most = max((value for _, value in values), default=0.0)
    return [Bar(name, 100 * value / most if most > 0 else 0.0, value) for name, value in values]


def ranges(figures: Sequence[tuple[float, float, float]]) -> list[Range]:
    """Values with low and high on one axis from 0; an upper end may be infinite, and NaN is 0."""
    known = [[each if math.isfinite(each) else 0.0 for each in figure] for figure in figures]
    most = max((max(figure) for figure in known), default=0.0) * _ROOM or 1.0
    return [
        Range(
            100 * value / most,
            100 * min(low, value) / most,
            100.0 if math.isinf(figure[2]) else 100 * max(high, value) / most,
        )
        for (value, low, high), figure in zip(known, figures, strict=True)
    ]


def ticks(most: float, scale: Scale) -> list[Mark]:
    """Round numbers from 0 up to `most`, which is at 100 percent."""
    if most <= 0:
        return [Mark(0.0, "0")]
    size = scale.unit.size / scale.factor
    step = _round_up(most / size / _MOST_TICKS)
    count = math.floor(most / size / step * (1 + 1e-9))
    return [Mark(100 * i * step * size / most, f"{i * step:,.10g}") for i in range(count + 1)]


def between(value: float, low: float, high: float) -> float:
    """The place of a value on an axis from `low` to `high`, in percent; the middle of an axis of no length."""
    return 100 * (value - low) / (high - low) if high > low else 50.0


def _round_up(value: float) -> float:
    """The next round number: 1, 2 or 5 times a power of ten."""
    decade = 10.0 ** math.floor(math.log10(value))
    return next((nice * decade for nice in (1, 2, 5) if nice * decade >= value * (1 - 1e-9)), 10 * decade)

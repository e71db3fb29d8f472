"""After how many units of work a one-off cost, such as a distillation, has paid back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from carbon_otel.lifecycle.repeats import Interval, difference


@dataclass(frozen=True, slots=True)
class OneOff:
    """A cost that the variant has once: watt-hours with their band, and grams if those are comparable.

    `common`: it was measured as the runs were, so that an error of the meter multiplies both sides and cancels.
    """

    name: str
    energy: Interval
    grams: float | None = None
    common: bool = False


@dataclass(frozen=True, slots=True)
class Payback:
    """The units of work after which the variant has saved what it has cost once.

    Attributes:
        names: what was paid once.
        one_off_wh, one_off_g: their sum; grams are None if they are not comparable.
        energy: units until the energy is paid back; infinite where the saving may be 0 or less.
        emissions: the same for emissions.
    """

    names: tuple[str, ...]
    one_off_wh: float
    one_off_g: float | None
    energy: Interval
    emissions: Interval | None


def saving(base: Sequence[float], variant: Sequence[float], ratio: Interval) -> Interval:
    """What the variant saves for each unit, from the figures of the repeats.

    The wider of two intervals: that of the difference, and that of the ratio, which has the systematic errors.
    """
    of_means = difference(variant, base)
    mean = math.fsum(base) / len(base)
    low, high = mean * (1 - ratio.high), mean * (1 - ratio.low)
    return Interval(of_means.value, min(of_means.low, low), max(of_means.high, high))


def payback(
    costs: Sequence[OneOff], saved_wh: Interval, saved_g: Interval | None, band: tuple[float, float]
) -> Payback:
    """The units that pay the sum of `costs` at this saving for each unit.

    `band` is that of the meter of the runs, as two factors. It counts unless all costs have it in common.
    """
    wh = Interval(
        *(math.fsum(getattr(cost.energy, end) for cost in costs) for end in ("value", "low", "high"))
    )
    if not all(cost.common for cost in costs):
        saved_wh = Interval(saved_wh.value, saved_wh.low * band[0], saved_wh.high * band[1])
    grams = [cost.grams for cost in costs if cost.grams is not None]
    once_g = math.fsum(grams) if len(grams) == len(costs) else None
    of_grams = None
    if once_g is not None and saved_g is not None and wh.value > 0:
        # The band of the emissions is that of the energy: the grid's own error is common to both sides.
        once = Interval(once_g, *(once_g * end / wh.value for end in (wh.low, wh.high)))
        of_grams = _units(once, saved_g)
    return Payback(tuple(cost.name for cost in costs), wh.value, once_g, _units(wh, saved_wh), of_grams)


def _units(once: Interval, saved: Interval) -> Interval:
    def at(cost: float, each: float) -> float:
        return cost / each if each > 0 else math.inf

    return Interval(at(once.value, saved.value), at(once.low, saved.high), at(once.high, saved.low))

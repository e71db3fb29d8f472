"""The emissions of energy that was used at known times: the sum of `energy x PUE x intensity` over intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from carbon_otel.carbon.intensity import Intensity, Signal, same_signal
from carbon_otel.intensity.series import within
from carbon_otel.units import KILO


class NoFootprint(ValueError):
    """The intensities are of a kind that no footprint is made of."""


class Use(NamedTuple):
    """Energy that was used evenly from `start` until before `end`."""

    start: datetime
    end: datetime
    wh: float


@dataclass(frozen=True, slots=True)
class Priced:
    """Emissions by the hour.

    Attributes:
        emissions_g: grams of CO2 equivalent of the energy that has an intensity.
        low_g, high_g: the same with the ends of the bands of the intensities.
        priced_wh: the energy that has an intensity.
        total_wh: all energy.
        values: the intensities that were used.
    """

    emissions_g: float
    low_g: float
    high_g: float
    priced_wh: float
    total_wh: float
    values: tuple[Intensity, ...]

    @property
    def share(self) -> float:
        """The share of the energy that has an intensity; 0 for no energy."""
        return min(1.0, self.priced_wh / self.total_wh) if self.total_wh > 0 else 0.0


def price(uses: Iterable[Use], values: Sequence[Intensity], pue: float = 1.0) -> Priced:
    """Price energy by a series of intensities. Energy without an intensity has no emissions here.

    Raises:
        NoFootprint: for marginal, residual or market-based intensities, which may only be ranked or shown apart.
        MixedSignals: for intensities of different signals.
    """
    if values:
        require_footprint(same_signal(values))
    grams, lows, highs, priced, total = [], [], [], [], []
    used: dict[datetime, Intensity] = {}
    for use in uses:
        total.append(use.wh)
        length_s = (use.end - use.start).total_seconds()
        for value, seconds in within(values, use.start, use.end):
            wh = use.wh * seconds / length_s
            each = wh / KILO * pue * value.g_per_kwh
            priced.append(wh)
            grams.append(each)
            lows.append(each * value.band.low)
            highs.append(each * value.band.high)
            used[value.start] = value
    return Priced(
        emissions_g=math.fsum(grams),
        low_g=math.fsum(lows),
        high_g=math.fsum(highs),
        priced_wh=math.fsum(priced),
        total_wh=math.fsum(total),
        values=tuple(value for _, value in sorted(used.items())),
    )


def require_footprint(signal: Signal) -> None:
    """Raise NoFootprint unless the signal is the average of the grid, location-based (GHG Protocol, Scope 2)."""
    if signal.kind != "average" or signal.method != "location":
        raise NoFootprint(
            f"these intensities are {signal}; a footprint is made of average, location-based ones. Use them to "
            "rank hours: carbon-otel when"
        )

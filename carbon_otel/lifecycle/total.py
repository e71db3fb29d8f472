"""The sum of entries with its band."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from carbon_otel.lifecycle.entry import Entry
from carbon_otel.provenance import quadrature


@dataclass(frozen=True, slots=True)
class Total:
    """Watt-hours and grams of CO2 equivalent with their bands (k=2)."""

    energy_wh: float
    low_wh: float
    high_wh: float
    emissions_g: float
    low_g: float
    high_g: float


def total_of(entries: Sequence[Entry]) -> Total:
    """The sum of entries. Errors that they share add up: those of their hardware, and those of their grid."""
    energy_wh = sum(entry.energy_wh for entry in entries)
    grams = sum(entry.emissions_g for entry in entries)

    below_wh, below_g = _deviations(entries, lambda e: (e.energy_wh - e.low_wh, e.emissions_g - e.low_g))
    above_wh, above_g = _deviations(entries, lambda e: (e.high_wh - e.energy_wh, e.high_g - e.emissions_g))
    return Total(
        energy_wh=energy_wh,
        low_wh=max(0.0, energy_wh - below_wh),
        high_wh=energy_wh + above_wh,
        emissions_g=grams,
        low_g=max(0.0, grams - below_g),
        high_g=grams + above_g,
    )


def ratio(part: float, total: float) -> float:
    """A part of a total; 0 of nothing."""
    return part / total if total > 0 else 0.0


def _deviations(entries: Iterable[Entry], of: Callable[[Entry], tuple[float, float]]) -> tuple[float, float]:
    """Deviations of the sums of watt-hours and grams; `of` returns the deviations of an entry.

    The emissions of an entry deviate with its energy and with the intensity of its grid; its band has both in
    quadrature.
    """
    energy: dict[str, float] = defaultdict(float)
    with_energy: dict[str, float] = defaultdict(float)
    by_grid: dict[str, float] = defaultdict(float)
    for entry in entries:
        wh, grams = of(entry)
        hardware, zone = entry.tags.get("carbon.hardware", ""), entry.tags.get("carbon.zone", "")
        own_g = entry.emissions_g * ratio(wh, entry.energy_wh)
        energy[hardware] += wh
        with_energy[hardware] += own_g
        by_grid[zone] += math.sqrt(max(grams**2 - own_g**2, 0.0))
    return quadrature(energy.values()), quadrature([*with_energy.values(), *by_grid.values()])

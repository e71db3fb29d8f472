"""Sums and parts of measured energy and emissions, with their bands.

Errors of parts of one run, and of runs on one host, are mostly those of its sensors and of its grid, which they
share. So bands are added up in full, which is the widest that they can be.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from carbon_otel import quantities
from carbon_otel.lifecycle.entry import Entry
from carbon_otel.lifecycle.total import Total
from carbon_otel.units import J_PER_WH

NONE: Final = Total(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def whole(entry: Entry) -> Total:
    """The cost of an entry. That of a run which has not ended in order has no upper end."""
    endless = entry.lower_bound is not None
    return Total(
        entry.energy_wh,
        entry.low_wh,
        math.inf if endless else entry.high_wh,
        entry.emissions_g,
        entry.low_g,
        math.inf if endless else entry.high_g,
    )


def part(entry: Entry, wh: float, low_wh: float | None = None, high_wh: float | None = None) -> Total:
    """A part of the energy of an entry, with the relative band of the entry.

    `low_wh` and `high_wh` are the least and the most that the part may be of the entry's figure. A part is never
    more than its entry.
    """
    energy = entry.energy_wh
    if energy <= 0:
        return NONE
    value = min(max(0.0, wh), energy)
    low = value if low_wh is None else min(max(0.0, low_wh), value)
    high = value if high_wh is None else max(value, min(high_wh, energy))
    return Total(
        value,
        low * entry.low_wh / energy,
        high * entry.high_wh / energy,
        value * entry.emissions_g / energy,
        low * entry.low_g / energy,
        high * entry.high_g / energy,
    )


def total(amounts: Iterable[Total]) -> Total:
    """The sum of several."""
    values = [(a.energy_wh, a.low_wh, a.high_wh, a.emissions_g, a.low_g, a.high_g) for a in amounts]
    return Total(*map(math.fsum, zip(*values, strict=True))) if values else NONE


def share(one: Total, of: Total) -> float:
    """The share of the energy; 0 of nothing."""
    return one.energy_wh / of.energy_wh if of.energy_wh > 0 else 0.0


def counted(count: int, noun: str) -> str:
    """`1 run`, `3 runs`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def energy(wh: float, low_wh: float | None = None, high_wh: float | None = None) -> str:
    """Watt-hours as text, with their band if there is one."""
    low, high = (None if each is None else each * J_PER_WH for each in (low_wh, high_wh))
    return quantities.energy(wh * J_PER_WH, low, high)


def energy_of(amount: Total) -> str:
    """The energy as text, with its band."""
    return energy(amount.energy_wh, amount.low_wh, amount.high_wh)


def emissions_of(amount: Total) -> str:
    """The emissions as text, with their band."""
    return quantities.emissions(amount.emissions_g, amount.low_g, amount.high_g)

"""Embodied carbon by SCI (ISO/IEC 21031): M = TE x TS x RS.

TE is the emissions of making the hardware, TS the time reserved over its life, RS the share reserved: whole
accelerators are, with their share of the host. A vendor's figure is the value, a bottom-up model the upper end.
Figures that contain the host get none on top.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from carbon_otel.forecast.records import Assumption, Interval
from carbon_otel.forecast.tables import rows

_HOURS_PER_YEAR: Final = 24 * 365.25


def embodied_kg(
    device: str, gpu_hours: Interval, lifetime_years: float | None
) -> tuple[Interval | None, list[Assumption]]:
    """The share of some hours in making the hardware, in kilograms; None if no figure of the device is known.

    Args:
        device: the catalogue's name.
        gpu_hours: hours of one accelerator.
        lifetime_years: years of use; by default 4, from 3 to 6.

    Raises:
        ValueError: for a lifetime that is not above 0.
    """
    table = {row["name"]: row for row in rows("embodied")}
    row = table.get(device)
    if row is None:
        return None, []
    made, assumptions = _made(row, table["host"])
    life = _lifetime(table["lifetime"], lifetime_years)
    assumptions.append(life)
    years = Interval(life.low, life.value, life.high)
    return made * years.times(_HOURS_PER_YEAR).inverse() * gpu_hours, assumptions


def _made(row: Mapping[str, str], host: Mapping[str, str]) -> tuple[Interval, list[Assumption]]:
    device = _assumption("embodied carbon per accelerator", row, "kg")
    if row["boundary"] == "with host":
        return _interval(device), [device]
    share = _assumption("embodied carbon of its share of the host", host, "kg")
    return _interval(device) + _interval(share), [device, share]


def _lifetime(row: Mapping[str, str], years: float | None) -> Assumption:
    if years is None:
        return _assumption("lifetime of the hardware", row, "years")
    if not 0 < years < float("inf"):
        raise ValueError(f"the lifetime is {years} years; write a number above 0")
    return Assumption("lifetime of the hardware", years, years, years, "years", "given")


def _assumption(name: str, row: Mapping[str, str], unit: str) -> Assumption:
    value, low, high = (float(row[column]) for column in ("value", "low", "high"))
    return Assumption(name, value, low, high, unit, row["source"], row["verified"] == "yes")


def _interval(assumption: Assumption) -> Interval:
    return Interval(assumption.low, assumption.value, assumption.high)

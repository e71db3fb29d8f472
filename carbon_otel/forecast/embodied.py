"""The embodied carbon of a forecast, by SCI and the table in `carbon/embodied.py`.

Whole accelerators are reserved, with their share of a host. Figures that contain the host get none on top.
"""

from __future__ import annotations

from carbon_otel.carbon import embodied as table
from carbon_otel.carbon.embodied import Made
from carbon_otel.forecast.records import Assumption, Interval
from carbon_otel.units import HOURS_PER_DAY, S_PER_DAY, S_PER_YEAR

_HOURS_PER_YEAR = S_PER_YEAR / S_PER_DAY * HOURS_PER_DAY


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
    found = table.accelerator(device)
    if found is None:
        return None, []
    assumptions = [_assumption("embodied carbon per accelerator", found, "kg")]
    if not found.with_host:
        share = table.host_share()
        assumptions.append(_assumption("embodied carbon of its share of the host", share, "kg"))
    made = sum((_interval(each) for each in assumptions[1:]), _interval(assumptions[0]))
    life = _lifetime(lifetime_years)
    assumptions.append(life)
    return made * _interval(life).times(_HOURS_PER_YEAR).inverse() * gpu_hours, assumptions


def _lifetime(years: float | None) -> Assumption:
    if years is None:
        return _assumption("lifetime of the hardware", table.lifetime(), "years")
    if not 0 < years < float("inf"):
        raise ValueError(f"the lifetime is {years} years; write a number above 0")
    return Assumption("lifetime of the hardware", years, years, years, "years", "given")


def _assumption(name: str, made: Made, unit: str) -> Assumption:
    return Assumption(name, made.kg, made.low_kg, made.high_kg, unit, made.source, made.verified)


def _interval(assumption: Assumption) -> Interval:
    return Interval(assumption.low, assumption.value, assumption.high)

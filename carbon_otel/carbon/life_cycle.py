"""What stands beside the operational, location-based emissions of a footprint, and is never added to them.

* embodied carbon, for the time in which the hardware was reserved (M of SCI, ISO/IEC 21031);
* market-based emissions, where the user gives the intensity of a contract or of a residual mix (GHG Protocol,
  Scope 2 Guidance);
* water, where it is asked for: consumed, not withdrawn, W = E x (WUE + PUE x EWIF).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from carbon_otel.carbon.embodied import Hardware, Reserved
from carbon_otel.carbon.water import WaterFactor
from carbon_otel.units import J_PER_KWH

if TYPE_CHECKING:
    from carbon_otel.carbon.intensity import Intensity


class Embodied(NamedTuple):
    """Grams of CO2 equivalent of making the hardware, for the time in which it was reserved.

    `g` and its band are inclusive, `exclusive_g` and `by_kind` add up over stages. `lifetime_years` and `source`
    are those of the hardware.
    """

    g: float
    exclusive_g: float
    low_g: float
    high_g: float
    by_kind: Mapping[str, float]
    lifetime_years: float
    source: str


class Market(NamedTuple):
    """Market-based grams of CO2 equivalent, inclusive and exclusive, by the user's intensity."""

    g: float
    exclusive_g: float
    intensity: Intensity


@dataclass(frozen=True, slots=True)
class LifeCycle:
    """The factors of a measurement. None is unknown, not asked for, or not given.

    Attributes:
        hardware: for embodied carbon.
        market: the user's market-based intensity.
        water: litres per kilowatt-hour of IT energy.
    """

    hardware: Hardware | None = None
    market: Intensity | None = None
    water: WaterFactor | None = None

    @property
    def unknown(self) -> tuple[str, ...]:
        """The names of the hardware without a figure, for which the embodied carbon is unknown."""
        return () if self.hardware is None else self.hardware.unknown

    @property
    def reserved(self) -> Reserved:
        """Embodied grams per second of reserved time; 0 if they are unknown."""
        return Reserved(0.0, ()) if self.hardware is None else self.hardware.reserved

    def embodied(self, g: float, exclusive_g: float, by_kind: Mapping[str, float]) -> Embodied | None:
        """Embodied grams with their band; None if they are unknown."""
        hardware = self.hardware
        if hardware is None or hardware.unknown:
            return None
        low, high = hardware.band
        # A footprint can be pickled; a view of a mapping cannot.
        kinds = dict(by_kind)
        return Embodied(g, exclusive_g, g * low, g * high, kinds, hardware.lifetime_years, hardware.source)

    def market_based(self, joules: float, exclusive_j: float, pue: float) -> Market | None:
        """Market-based grams of some joules; None without an intensity."""
        if self.market is None:
            return None
        g_per_j = pue * self.market.g_per_kwh / J_PER_KWH
        return Market(joules * g_per_j, exclusive_j * g_per_j, self.market)


NO_LIFE_CYCLE: Final = LifeCycle()

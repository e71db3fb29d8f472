"""What stands beside the operational, location-based emissions of a footprint, and is never added to them.

* embodied carbon, for the time in which the hardware was reserved (M of SCI, ISO/IEC 21031);
* market-based emissions, where the user gives the intensity of a contract or of a residual mix (GHG Protocol,
  Scope 2 Guidance);
* water, where it is asked for: consumed, not withdrawn, W = E x (WUE + PUE x EWIF).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Final, NamedTuple

from carbon_otel.carbon.embodied import Hardware, Reserved
from carbon_otel.carbon.intensity import Intensity, Signal, year_of
from carbon_otel.carbon.regions import water_of_electricity
from carbon_otel.provenance import Band
from carbon_otel.units import J_PER_KWH

# Published factors of one country differ by this much, mostly by the evaporation that hydropower is charged with.
WATER_BAND: Final = Band(0.5, 2.0, "published water factors of electricity, -50 % to +100 %", "spread")
# Published water use of sites in litres per kWh: Microsoft EMEA 0.03, AWS fleet 0.12 and Google fleet 1.15.
_UNKNOWN_SITE: Final = (0.3, 0.03, 1.15)
_EXACT: Final = Band(1.0, 1.0, "given", "stated")


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


class Water(NamedTuple):
    """Litres of water, inclusive, with their band."""

    litres: float
    low: float
    high: float
    source: str


class WaterFactor(NamedTuple):
    """Litres per kilowatt-hour of IT energy."""

    l_per_kwh: float
    low: float
    high: float
    source: str

    def of(self, joules: float) -> Water:
        """The water of some energy."""
        kwh = joules / J_PER_KWH
        return Water(kwh * self.l_per_kwh, kwh * self.low, kwh * self.high, self.source)


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


def market_intensity(g_per_kwh: float, source: str, zone: str) -> Intensity:
    """The intensity that a user gives for a contract, a supplier or a residual mix."""
    start, end = year_of(datetime.now(timezone.utc).year)
    signal = Signal(method="market")
    return Intensity(zone, zone, g_per_kwh, start, end, _EXACT, source, "given by the user", signal)


def water_factor(zone: str, pue: float, wue: float | None = None) -> WaterFactor:
    """Water of a kilowatt-hour of IT energy in a zone, at a site with this PUE.

    `wue` are the litres that the site itself consumes per kilowatt-hour; without it, the range of large sites.
    """
    ewif, source = water_of_electricity(zone)
    value, low, high = _UNKNOWN_SITE if wue is None else (wue, wue, wue)
    site = "site unknown, published sites from 0.03 to 1.15 L/kWh" if wue is None else f"site {wue:g} L/kWh"
    electricity = pue * ewif
    return WaterFactor(
        value + electricity,
        low + electricity * WATER_BAND.low,
        high + electricity * WATER_BAND.high,
        f"{site}; electricity {ewif:.3g} L/kWh: {source}",
    )

"""Water that is consumed, not withdrawn: W = E x (WUE + PUE x EWIF), by the site and by making its electricity."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Final, NamedTuple

from carbon_otel.carbon.tables import rows
from carbon_otel.provenance import Band
from carbon_otel.units import J_PER_KWH

# Published factors of one country differ by this much, mostly by the evaporation that hydropower is charged with.
WATER_BAND: Final = Band(0.5, 2.0, "published water factors of electricity, -50 % to +100 %", "spread")
# Published water use of sites in litres per kWh: Microsoft EMEA 0.03, AWS fleet 0.12 and Google fleet 1.15.
_UNKNOWN_SITE: Final = (0.3, 0.03, 1.15)
_WORLD: Final = "WORLD"


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


def water_of_electricity(zone: str) -> tuple[float, str]:
    """Litres of water that a kilowatt-hour consumes in a zone, and the source; of an unknown zone, the world's."""
    row = _water().get(zone.partition("-")[0], _water()[_WORLD])
    return float(row["l_per_kwh"]), row["source"]


@functools.cache
def _water() -> Mapping[str, Mapping[str, str]]:
    return {row["zone"]: row for row in rows("water.csv")}

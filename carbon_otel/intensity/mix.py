"""The intensity of a mix of plants, by one factor for each fuel: an estimate, never a measured value.

The factors are medians over plants of the world (lifecycle; IPCC AR5 WG3, Annex III, 2014, table A.III.2); that of
oil is from IPCC SRREN, 2011, table A.II.4. They are too low for old coal, by 15 % in the American Midwest (546
against 637 g/kWh), and too high for efficient gas.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from carbon_otel.carbon.intensity import Signal

SOURCE: Final = "IPCC medians by fuel"
SIGNAL: Final = Signal(scope="lifecycle", basis="production")
STORAGE: Final = "storage"  # gives back what other plants have made
UNKNOWN: Final = "unknown"
_G_PER_KWH: Final = {
    "coal": 820.0,
    "gas": 490.0,
    "oil": 840.0,
    "biomass": 230.0,
    "solar": 48.0,
    "geothermal": 38.0,
    "hydro": 24.0,
    "nuclear": 12.0,
    "wind": 11.0,
}
_MOST_UNKNOWN: Final = 0.1


def g_per_kwh(generated: Mapping[str, float]) -> float | None:
    """Grams per kilowatt-hour of a mix of fuels, in any unit of energy or power; negative amounts count as 0.

    None if nothing is generated, or more than a tenth is of unknown fuels; up to there, these count as the mean.
    """
    known = {fuel: max(0.0, amount) for fuel, amount in generated.items() if fuel in _G_PER_KWH}
    total, unknown = sum(known.values()), max(0.0, generated.get(UNKNOWN, 0.0))
    if not total > 0 or unknown > _MOST_UNKNOWN * (total + unknown):
        return None
    return sum(amount * _G_PER_KWH[fuel] for fuel, amount in known.items()) / total

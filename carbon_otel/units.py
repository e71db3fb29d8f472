"""Unit conversions and SI prefixes, and quantities as text."""

from __future__ import annotations

from typing import Final

KILO: Final = 1e3
MILLI: Final = 1e-3
MICRO: Final = 1e-6
BYTES_PER_GB: Final = 1e9
J_PER_KWH: Final = 3.6e6
J_PER_WH: Final = 3.6e3
NS_PER_S: Final = 1_000_000_000
S_PER_NS: Final = 1e-9
NS_PER_MS: Final = 1_000_000
MS_PER_S: Final = 1000
S_PER_H: Final = 3600.0
HOURS_PER_DAY: Final = 24.0
S_PER_DAY: Final = 86_400.0
# As embodied carbon is spread over years: 4 of them are 35,040 hours (SCI's examples, Boavizta).
S_PER_YEAR: Final = 365 * S_PER_DAY


def energy(wh: float) -> str:
    """Watt-hours as text with four digits: `12.41 Wh`, `22.64 kWh`."""
    return f"{wh / KILO:,.4g} kWh" if abs(wh) >= KILO else f"{wh:.4g} Wh"


def emissions(grams: float) -> str:
    """Grams of CO2 equivalent as text with four digits: `4.752 g`, `1.2 kg`."""
    return f"{grams / KILO:,.4g} kg" if abs(grams) >= KILO else f"{grams:.4g} g"

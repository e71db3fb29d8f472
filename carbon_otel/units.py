"""The few unit conversions, once."""

from __future__ import annotations

from typing import Final

J_PER_KWH: Final = 3.6e6
J_PER_WH: Final = 3.6e3
NS_PER_S: Final = 1_000_000_000
S_PER_NS: Final = 1e-9


def energy(wh: float) -> str:
    """Watt-hours for a reader, with four digits: `12.41 Wh`, `22.64 kWh`."""
    return f"{wh / 1000:,.4g} kWh" if abs(wh) >= 1000 else f"{wh:.4g} Wh"


def emissions(grams: float) -> str:
    """Grams of CO2 equivalent for a reader: `4.752 g`, `1.2 kg`."""
    return f"{grams / 1000:,.4g} kg" if abs(grams) >= 1000 else f"{grams:.4g} g"

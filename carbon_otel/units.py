"""Unit conversions and SI prefixes."""

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

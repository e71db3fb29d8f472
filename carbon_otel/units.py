"""The few unit conversions, once."""

from __future__ import annotations

from typing import Final

J_PER_KWH: Final = 3.6e6
J_PER_WH: Final = 3.6e3
NS_PER_S: Final = 1_000_000_000
S_PER_NS: Final = 1e-9

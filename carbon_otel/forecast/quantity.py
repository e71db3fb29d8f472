"""Numbers as people write them: `30B`, `1.4T`, `600 billion`, `32k`."""

from __future__ import annotations

import contextlib
import math
import re
from typing import Any, Final

_FACTORS: Final = {
    "": 1.0,
    "k": 1e3,
    "thousand": 1e3,
    "m": 1e6,
    "million": 1e6,
    "b": 1e9,
    "g": 1e9,
    "billion": 1e9,
    "t": 1e12,
    "trillion": 1e12,
    "q": 1e15,
    "p": 1e15,
}
_NUMBER: Final = re.compile(r"([-+]?[\d_,]*\.?\d+(?:e[-+]?\d+)?)\s*([a-z]*)", re.IGNORECASE)


def number(text: Any, what: str) -> float:
    """The number above zero that is meant. `what` names it in the message of the ValueError."""
    value = math.nan
    if isinstance(text, str):
        found = _NUMBER.fullmatch(text.strip())
        factor = _FACTORS.get(found[2].lower()) if found else None
        if found and factor is not None:
            value = float(found[1].replace(",", "").replace("_", "")) * factor
    elif not isinstance(text, bool):
        with contextlib.suppress(TypeError, ValueError):
            value = float(text)
    if not 0 < value < math.inf:
        raise ValueError(f"{what} is {text!r}; write a number above 0, such as 30, 32k, 30B or 1.4T")
    return value


def text_of(value: float) -> str:
    """The number with four digits and its letter: `30B`, `1.4T`, `512`."""
    for factor, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if abs(value) >= factor * 0.9995:
            return f"{value / factor:.4g}{letter}"
    return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"

"""Checks of values from a store: any program may write tags and metrics, and MLflow cuts long tags.

JSON that is too long for one tag is split over several: `name`, `name.1`, `name.2`, ...
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Final

# MLflow cuts tags at 8,000 characters.
LONGEST_TAG: Final = 8000
# All tags of one value together; a run with thousands of kinds of stage needs a tenth of it.
_LONGEST: Final = 4_000_000
_METRIC: Final = re.compile(r"(?=.{1,250}\Z)carbon(/(?!\.\.?(/|\Z))[\w. :-]+)+")
# More than the world uses in a year (2e17 Wh); sums of such figures stay finite.
_MOST: Final = 1e18
_MOST_PUE: Final = 1000.0
# Rounding may put the difference of two sums below zero by this much.
_ROUNDING: Final = 1e-6


class Unreadable(ValueError):
    """The figures of a run cannot be read; the message has the figure and the reason."""


def number(value: object) -> float | None:
    """The value as a float, NaN included; None if it is not a number or out of range."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if abs(value) > _MOST:  # checked first: an integer may be too large for a float
        return None
    return float(value)


def numbers(values: object) -> dict[str, float] | None:
    """The numbers of a mapping without NaN; None if `values` is not a mapping of numbers."""
    if not isinstance(values, Mapping):
        return None
    checked = {name: number(value) for name, value in values.items()}
    if None in checked.values():
        return None
    return {name: value for name, value in checked.items() if value is not None and not math.isnan(value)}


def texts(values: object) -> dict[str, str] | None:
    """A mapping of texts; None if `values` is something else."""
    if not isinstance(values, Mapping):
        return None
    return dict(values) if all(isinstance(value, str) for value in values.values()) else None


def pue_in(text: str) -> float:
    """Power usage effectiveness in a tag. Raises Unreadable."""
    try:
        value = number(float(text))
    except ValueError:
        value = None
    if value is None or not 1 <= value <= _MOST_PUE:
        raise Unreadable(f"carbon.pue is {text[:20]!r}")
    return value


def amount(figures: Mapping[str, float], name: str) -> float:
    """The figure `name`, at least 0. Raises Unreadable if it is missing or negative."""
    value = figures.get(name)
    if value is None:
        raise Unreadable(f"{name} is missing")
    if not is_amount(value):
        raise Unreadable(f"{name} is {value:g}")
    return max(0.0, value)


def is_amount(value: float) -> bool:
    """Whether the number can be an amount of energy, emissions, time or units: at least 0, but for rounding."""
    return value >= -_ROUNDING


def is_metric(name: str) -> bool:
    """Whether MLflow accepts this name of a metric, and it is one of carbon_otel."""
    return _METRIC.fullmatch(name) is not None


def tags_of(name: str, value: object) -> dict[str, str]:
    """The value as JSON, in as many tags as it needs."""
    text = json.dumps(value, separators=(",", ":"))
    pieces = [text[i : i + LONGEST_TAG] for i in range(0, len(text), LONGEST_TAG)]
    return {f"{name}.{i}" if i else name: piece for i, piece in enumerate(pieces)}


def pieces_of(tags: Mapping[str, str], prefix: str) -> dict[str, str]:
    """The joined texts of the tags that begin with `prefix`, by the name that follows `prefix`.

    A text that is far too long is empty instead.
    """
    pieces: dict[str, dict[int, str]] = {}
    for tag, text in tags.items():
        if tag.startswith(prefix):
            name, _, index = tag.removeprefix(prefix).partition(".")
            pieces.setdefault(name, {})[_index(index)] = text
    return {name: _joined(texts) for name, texts in pieces.items()}


def object_in(text: str) -> dict[str, Any] | None:
    """The JSON object at the beginning of the text; None if there is none.

    Text after it is ignored: an earlier, longer value may have left its last tags.
    """
    try:
        value, _ = json.JSONDecoder().raw_decode(text)
        if "\\u" in text:
            # JSON can escape half of a surrogate pair, which no terminal or file accepts.
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _joined(texts: Mapping[int, str]) -> str:
    if sum(map(len, texts.values())) > _LONGEST:
        return ""
    return "".join(text for _, text in sorted(texts.items()))


def _index(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 6 else 0

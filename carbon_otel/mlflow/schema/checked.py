"""Checks of values from a store: any program may write tags and metrics, and MLflow cuts long tags.

JSON that is longer than one tag may be is written over several: `name`, `name.1`, `name.2`, ...
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

# MLflow cuts tags at 8,000 characters.
LONGEST_TAG: Final = 8000
# More than the world uses in a year (2e17 Wh); sums of such figures stay finite.
_MOST: Final = 1e18
# Differences of sums may round below zero by as much.
_ROUNDING: Final = 1e-6


class Unreadable(ValueError):
    """A run's figures cannot be read; the message says which, and why."""


def number(value: object) -> float | None:
    """The value as a float, NaN included; None where it is no number or out of range."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if abs(value) > _MOST:  # first: an integer may be too large for a float
        return None
    return float(value)


def numbers(values: object) -> dict[str, float] | None:
    """The object's numbers, without those that are NaN; None where one of its values is no number."""
    if not isinstance(values, Mapping):
        return None
    checked = {name: number(value) for name, value in values.items()}
    if None in checked.values():
        return None
    return {name: value for name, value in checked.items() if value is not None and not math.isnan(value)}


def amount(figures: Mapping[str, float], name: str) -> float:
    """The figure of that name, which is at least 0. Raises Unreadable where it is missing or negative."""
    value = figures.get(name)
    if value is None:
        raise Unreadable(f"{name} is missing")
    if value < -_ROUNDING:
        raise Unreadable(f"{name} is {value:g}")
    return max(0.0, value)


def tags_of(name: str, value: object) -> dict[str, str]:
    """The value as JSON in as many tags as it takes."""
    text = json.dumps(value, separators=(",", ":"))
    pieces = [text[i : i + LONGEST_TAG] for i in range(0, len(text), LONGEST_TAG)]
    return {f"{name}.{i}" if i else name: piece for i, piece in enumerate(pieces)}


def pieces_of(tags: Mapping[str, str], prefix: str) -> dict[str, str]:
    """The texts of the tags that begin with the prefix, their pieces joined, by what follows the prefix."""
    pieces: dict[str, dict[int, str]] = {}
    for tag, text in tags.items():
        if tag.startswith(prefix):
            name, _, place = tag.removeprefix(prefix).partition(".")
            pieces.setdefault(name, {})[_place(place)] = text
    return {name: "".join(text for _, text in sorted(found.items())) for name, found in pieces.items()}


def object_in(text: str) -> dict[str, Any] | None:
    """The JSON object at the beginning of the text; None where there is none.

    Text after it is ignored: a longer value that was there before may leave its last tags.
    """
    try:
        value, _ = json.JSONDecoder().raw_decode(text)
        if "\\u" in text:
            # JSON has escapes for halves of a surrogate pair, which no terminal or file takes.
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _place(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 6 else 0

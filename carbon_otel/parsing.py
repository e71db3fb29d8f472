"""Parsers for the values of settings, which return None for a wrong one, and the declaration of a field."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import field
from typing import Any


def number(lowest: float, highest: float = math.inf) -> Callable[[Any], float | None]:
    """The parser of a finite number in a range."""

    def parse(value: Any) -> float | None:
        try:
            result = float(value)
        except (TypeError, ValueError):
            return None
        valid = lowest <= result <= highest and math.isfinite(result) and not isinstance(value, bool)
        return result if valid else None

    return parse


def text(longest: float = math.inf) -> Callable[[Any], str | None]:
    """The parser of a text that is not empty."""

    def parse(value: Any) -> str | None:
        result = value.strip() if isinstance(value, str) else ""
        return result if 0 < len(result) <= longest else None

    return parse


def boolean(value: Any) -> bool | None:
    """The parser of true or false, in the spellings of environment variables."""
    word = str(value).strip().lower()
    if word in ("1", "true", "yes", "on"):
        return True
    return False if word in ("", "0", "false", "no", "off") else None


def declare(value: Any, **declaration: Any) -> Any:
    """A field of settings: its default value or factory, and its declaration."""
    if callable(value):
        return field(default_factory=value, metadata=declaration)
    return field(default=value, metadata=declaration)

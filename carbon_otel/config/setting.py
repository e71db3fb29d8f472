"""The declaration of a setting, and the parsers of the common types."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from carbon_otel.text import printable

PREFIX: Final = "CARBON_OTEL_"


@dataclass(frozen=True, slots=True)
class Setting:
    """The declaration of one setting.

    Attributes:
        name: name of the argument and of the key in pyproject.toml.
        sentence: the effect of the setting.
        default: the default in words.
        parse: converts a value from any source; returns None or raises ValueError for a wrong one.
        write: the correct values in words, for the error about a wrong one.
        former: an earlier name, read if the present name is not given.
        argument: whether `instrument()` has an argument for it; every other source accepts it.
    """

    name: str
    sentence: str
    default: str
    parse: Callable[[Any], Any]
    write: str
    former: str | None = None
    argument: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the setting, the present one first."""
        return (self.name,) if self.former is None else (self.name, self.former)

    @property
    def variable(self) -> str:
        """The environment variable."""
        return variable(self.name)

    def value(self, given: Any, source: str) -> Any:
        """Parse a value. Raises ValueError with the source and the correct values."""
        try:
            value = self.parse(given)
        except ValueError as error:
            raise ValueError(printable(f"{source}={given!r}: {error}")) from None
        if value is None:
            raise ValueError(printable(f"{source}={given!r}: write {self.write}"))
        return value


def variable(name: str) -> str:
    """The environment variable of a setting's name."""
    return PREFIX + name.upper()


def to_number(lowest: float, highest: float = math.inf) -> Callable[[Any], float | None]:
    """A parser of finite numbers in a range. Like all parsers here it returns None for a wrong value."""

    def parse(value: Any) -> float | None:
        try:
            number = float(value)
        except (TypeError, ValueError):
            return None
        valid = lowest <= number <= highest and math.isfinite(number) and not isinstance(value, bool)
        return number if valid else None

    return parse


def to_text(longest: float = math.inf) -> Callable[[Any], str | None]:
    """A parser of texts of 1 to `longest` characters, without the spaces around them."""

    def parse(value: Any) -> str | None:
        text = value.strip() if isinstance(value, str) else ""
        return text if 0 < len(text) <= longest else None

    return parse


def to_boolean(value: Any) -> bool | None:
    """True or false, also as the words of an environment variable."""
    text = str(value).strip().lower()
    if text in ("1", "true", "yes", "on"):
        return True
    return False if text in ("", "0", "false", "no", "off") else None


def to_path(value: Any) -> Path | None:
    """A path, which need not exist."""
    return Path(value) if isinstance(value, (str, os.PathLike)) else None


def to_folder(value: Any) -> Path | None:
    """The path of a folder that exists."""
    path = to_path(value)
    return path if path is not None and path.is_dir() else None


def declared(value: Any, **declaration: Any) -> Any:
    """A field of `Settings`: its default value or factory, and its `Setting`."""
    if callable(value):
        return field(default_factory=value, metadata=declaration)
    return field(default=value, metadata=declaration)

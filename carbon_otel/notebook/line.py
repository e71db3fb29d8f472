"""The line of `%%carbon`: the kind and the name of a stage, and its functional units."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from types import CodeType
from typing import Any, Final, NamedTuple

from carbon_otel.stages import arguments

USAGE: Final = "%%carbon KIND [NAME] [--units samples=N]"
_UNITS: Final = re.compile(r"(?:^|\s)--units(?:\s+|$)")
# Between two units without a comma.
_NEXT_UNIT: Final = re.compile(r"\s+(?=[A-Za-z_]\w*\s*=[^=])")


class Request(NamedTuple):
    """A stage that is asked for. Its units are expressions, whose values are known at the end of the cell."""

    kind: str
    name: str | None
    units: Mapping[str, CodeType]


def parse(line: str, expand: Callable[[str], str] = str) -> Request:
    """The stage that a line asks for. `expand` replaces the variables in its kind and name.

    Raises:
        ValueError: for a line that asks for none; the message says what to write.
    """
    words, *units = _UNITS.split(line, maxsplit=1)
    kind, *name = expand(words).split(maxsplit=1) or [""]
    try:
        if not kind or kind.startswith("-"):
            raise ValueError(
                f"the kind of the stage is missing; write one of {', '.join(arguments.LIFECYCLE)}"
            )
        if any(word.startswith("--") for word in " ".join(name).split()):
            raise ValueError("the only option is --units")
        return Request(
            arguments.kind_of(kind),
            arguments.name_of(name[0].strip()) if name else None,
            _compiled(units[0]) if units else {},
        )
    except ValueError as error:
        raise ValueError(f"{error}\nusage: {USAGE}") from None


def evaluated(units: Mapping[str, CodeType], namespace: dict[str, Any]) -> dict[str, float]:
    """The amounts of the units in the user's namespace.

    Raises what an expression raises, and ValueError for what is not an amount.
    """
    return {unit: arguments.amount_of(unit, eval(code, namespace)) for unit, code in units.items()}


def _compiled(text: str) -> dict[str, CodeType]:
    """The expressions of `samples=len(X), tokens=3`, with or without the comma."""
    for candidate in (text, _NEXT_UNIT.sub(", ", text.strip())):
        try:
            call = ast.parse(f"_({candidate})", mode="eval").body
        except SyntaxError:
            continue
        if isinstance(call, ast.Call) and call.keywords and not call.args:
            return {
                arguments.unit_of(each.arg or ""): compile(ast.Expression(each.value), "<units>", "eval")
                for each in call.keywords
            }
    raise ValueError(f"--units {text}: write names with expressions, such as --units samples=len(X)")

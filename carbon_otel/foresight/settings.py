"""What a caller gives, checked by the types of the fields that it is for."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Mapping
from typing import Any, Final

from carbon_otel.forecast.quantity import number
from carbon_otel.forecast.records import Forecast, PastRun

# What the caller gives under other names.
_OWN: Final = ("hardware", "model", "place")


def checked(kind: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a request or a place, with numbers that were written as text.

    Raises:
        ValueError: for a field that the kind lacks, and for a value of another type; the message names the field.
    """
    fields = {each.name: str(each.type) for each in dataclasses.fields(kind) if each.name not in _OWN}
    wrong = ", ".join(sorted(set(given) - set(fields)))
    if wrong:
        known = ", ".join(sorted(fields))
        raise ValueError(f"{wrong}: not of a {kind.__name__}; its settings are {known}")
    return {name: _checked(name, fields[name], value) for name, value in given.items()}


def _checked(name: str, annotation: str, value: Any) -> Any:
    kinds = annotation.split(" | ")
    if value is None and "None" in kinds:
        return None
    if "Forecast" in kinds and isinstance(value, Forecast):
        return value
    if "float" in kinds or "int" in kinds:
        if isinstance(value, str):
            return number(value, name)
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise ValueError(f"{name} is {value!r}; write a number")
        return value
    if "bool" in kinds:
        return bool(value)
    if annotation.startswith("tuple"):
        if isinstance(value, list | tuple) and all(isinstance(run, PastRun) for run in value):
            return tuple(value)
        raise ValueError(f"{name} is {value!r}; write a list of PastRun")
    if not isinstance(value, str):
        raise ValueError(f"{name} is {value!r}; write a text")
    return value

"""Checks of what a user writes into a stage: kind, name, attributes, units.

A wrong argument raises ValueError, which says what to write instead. Text and numbers that are right, but that a
protocol cannot carry, are changed: one lone surrogate would lose the whole batch that an exporter sends.
"""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Mapping
from typing import Any, Final, Literal, cast, get_args

from carbon_otel.guard import log_once
from carbon_otel.records import GROUPS, RUN, UNATTRIBUTED, AttributeValue

Lifecycle = Literal["data_processing", "training", "evaluation", "inference"]
LIFECYCLE: Final[tuple[str, ...]] = get_args(Lifecycle)
# Keys of carbon_otel, of the conventions that it follows, and of the tools that read its spans.
_RESERVED: Final = ("carbon_otel.", "hw.", "logfire.", "mlflow.")
# Words that people write for the kinds of the lifecycle.
_WORDS: Final[Mapping[Lifecycle, str]] = {
    "data_processing": "data etl load loading prepare preparation preprocess preprocessing processing "
    "data_loading data_preparation data_preprocessing feature_engineering",
    "training": "train fit fitting finetune finetuning fine_tune fine_tuning pretrain pretraining",
    "evaluation": "eval evaluate test testing validate validation score scoring",
    "inference": "infer predict prediction predicting serve serving",
}
MEANT: Final[Mapping[str, Lifecycle]] = {
    spelt: kind
    for kind, words in _WORDS.items()
    for word in (*words.split(), kind)
    for plain in (word, word.replace("_", "-"), word.replace("_", ""))
    for spelt in (plain, plain.capitalize(), plain.upper())
    if spelt != kind
}
_KIND: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]{0,63}")
_UNIT: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
LONGEST_NAME: Final = 250
# Beyond these sizes a value is cut: collectors refuse a message of 4 MB, with all spans in it.
_LONGEST_TEXT: Final = 8192
_MOST_ITEMS: Final = 1024
_INT64: Final = range(-(1 << 63), 1 << 63)  # what OTLP can carry
_Scalar = str | bool | int | float


def kind_of(kind: Any) -> str:
    """The kind of a stage. Raises ValueError."""
    if callable(kind):
        raise ValueError(
            "carbon_otel.stage needs a kind; write @carbon_otel.stage('training'), or another of "
            f"{', '.join(LIFECYCLE)}"
        )
    if not isinstance(kind, str) or not _KIND.fullmatch(kind):
        raise ValueError(
            f"stage kind {kind!r}: write one of {', '.join(LIFECYCLE)}, or a name of letters, digits, '_', '.' "
            "and '-' that starts with a letter or '_' and has at most 64 characters"
        )
    if kind in (RUN, UNATTRIBUTED, *GROUPS):
        raise ValueError(
            f"stage kind {kind!r} is used by carbon_otel itself; write another, such as 'training'"
        )
    return kind


def hint_at(kind: str) -> None:
    """Log once which kind of the lifecycle is probably meant by this word for it."""
    log_once(
        "stage kind %r: did you mean %r? Your own kinds are fine, but reports and MLflow's metrics know %s",
        kind,
        MEANT[kind],
        ", ".join(LIFECYCLE),
        about=kind,
    )


def name_of(name: Any) -> str:
    """The name of a stage, in characters that can be sent. Raises ValueError."""
    if not isinstance(name, str) or not name.strip() or len(name) > LONGEST_NAME:
        raise ValueError(f"stage name {name!r}: write 1 to 250 characters, or leave it out to use the kind")
    return _sendable(name)


def attributes_of(attributes: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, AttributeValue]:
    """Copies of the attributes of a stage, as OpenTelemetry takes them. Raises ValueError."""
    if not attributes and not more:
        return {}
    return {_key(key): _value(key, value) for key, value in {**attributes, **more}.items()}


def unit_of(unit: str) -> str:
    """The name of a functional unit. Raises ValueError."""
    if not _UNIT.fullmatch(unit):
        raise ValueError(f"unit {unit!r}: write a plain name, such as samples")
    return unit


def amount_of(unit: str, amount: Any) -> float:
    """The number of functional units. Raises ValueError."""
    if isinstance(amount, bool) or not isinstance(amount, numbers.Real):
        raise ValueError(f"{unit}={amount!r}: write a number of {unit}")
    number = float(amount)
    if not math.isfinite(number) or number < 0:
        raise ValueError(f"{unit}={amount!r}: write a number of {unit} from 0 up")
    return number


def _key(key: Any) -> str:
    if not isinstance(key, str) or not key.strip() or len(key) > LONGEST_NAME:
        raise ValueError(f"attribute key {key!r}: write a text of 1 to 250 characters")
    for prefix in _RESERVED:
        if key.lower().startswith(prefix):
            raise ValueError(
                f"attribute {key!r}: carbon_otel and the tools that read its spans use keys that begin with "
                f"{prefix!r}; write another, such as {'app.' + key[len(prefix) :]!r}"
            )
    return _sendable(key)


def _value(key: str, value: Any) -> AttributeValue:
    if isinstance(value, (list, tuple)):
        items = [_scalar(item) for item in value[:_MOST_ITEMS]]
        kinds = {type(item) for item in items}
        if kinds == {int, float}:
            return tuple(float(cast(float, item)) for item in items)
        if len(kinds) < 2 and None not in items:
            return cast(AttributeValue, tuple(items))
    else:
        scalar = _scalar(value)
        if scalar is not None:
            return scalar
    raise ValueError(
        f"attribute {key}={value!r:.200}: OpenTelemetry takes str, bool, int of 64 bits, float, or a list of one "
        f"of these; write {key}=str(...) or leave it out"
    )


def _scalar(value: Any) -> _Scalar | None:
    """The value in the plain type of Python, also for NumPy's scalars and members of enumerations."""
    if isinstance(value, str):
        return _sendable(str.__str__(value)[:_LONGEST_TEXT])
    kind = type(value)
    if kind is bool or (kind.__module__ == "numpy" and kind.__name__.startswith("bool")):
        return bool(value)
    if isinstance(value, numbers.Integral):
        return int(value) if int(value) in _INT64 else None
    return float(value) if isinstance(value, numbers.Real) else None


def _sendable(text: str) -> str:
    """The text with lone surrogates replaced: UTF-8, in which everything is sent, has none."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

"""Which parameters and metrics of the user a table of runs has room for."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

_MOST: Final = 5
_DIGITS: Final = 4


class Values(NamedTuple):
    """Names of columns, their texts by row (empty where a row has none), and how many columns are left out."""

    names: Sequence[str]
    rows: Sequence[Sequence[str]]
    left_out: int


def chosen(rows: Sequence[Mapping[str, str] | Mapping[str, float]], first: str | None = None) -> Values:
    """The values that differ between the rows that have some, those of most rows first; of one such row, all.

    `first` is in the table in any case.
    """
    known = [row for row in rows if row]
    counts = Counter(name for row in known for name in row)
    differ = [
        name
        for name, _ in counts.most_common()
        if name != first and (len(known) == 1 or len({row.get(name) for row in known}) > 1)
    ]
    names = [*([first] if first is not None else []), *differ]
    shown = names[:_MOST]
    texts = [[_text(row[name]) if name in row else "" for name in shown] for row in rows]
    return Values(shown, texts, len(names) - len(shown))


def _text(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.{_DIGITS}g}" if math.isfinite(value) else str(value)

"""Rows as a pandas frame, where pandas is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas


def frame_of(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> pandas.DataFrame:
    """The rows as a frame, with these columns also where there are no rows.

    Raises:
        ImportError: without pandas; the message says what to do.
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError("a frame needs pandas: pip install pandas, or use rows()") from error
    return pandas.DataFrame(rows, columns=None if columns is None else list(columns))

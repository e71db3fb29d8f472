"""The tables in this package. Every row has its year, source and licence (`carbon/README.md` lists the tables).

No text is taken for a missing value: `NA` is Namibia.
"""

from __future__ import annotations

import re
from collections.abc import Iterator


def has_word(text: str, word: str) -> bool:
    """Whether a word of the text begins so, in any case: `South Korea` has `kor` and `south k`, but not `rea`."""
    return re.search(rf"(?<!\w){re.escape(word.strip())}", text, re.IGNORECASE) is not None


def rows(file: str) -> Iterator[dict[str, str]]:
    """The rows of a table by column."""
    import csv  # noqa: PLC0415 - both imports take 10 ms, which a program without tables need not pay

    return csv.DictReader(lines(file))


def lines(file: str) -> list[str]:
    """The lines of a table, the header first."""
    from importlib.resources import files  # noqa: PLC0415 - the same

    return files("carbon_otel.carbon").joinpath(f"data/{file}").read_text("utf-8").splitlines()

"""The file emissions.csv, as CodeCarbon writes it: one row for each run, or for each write."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from carbon_otel.compat.codecarbon_columns import COLUMNS, TASK_COLUMNS, EmissionsData
from carbon_otel.guard import log_once
from carbon_otel.private_files import add_to_file, create_file, replace_file


def write(path: Path, data: EmissionsData, *, update: bool) -> None:
    """Add the row of a run to the file, or replace the one that the run has in it. Raises OSError.

    A file with other columns is kept under another name, and a new one begun. If there is more than one row of the
    run to update, a row is added, as in CodeCarbon. Several processes may add rows to one file; only one of them
    may update it.
    """
    row = data.values
    if create_file(path, _lines(COLUMNS, [row], header=True)):
        return
    header, former, last = _read(path, with_rows=update)
    if sorted(header) != sorted(COLUMNS):
        if last:
            _set_aside(path)
        replace_file(path, _lines(COLUMNS, [row], header=True))
        return
    others = [each for each in former if each.get("run_id") != data.run_id]
    if update and len(former) - len(others) <= 1:
        replace_file(path, _lines(header, [*others, row], header=True))
    else:
        add_to_file(path, ("" if last == b"\n" else "\n") + _lines(header, [row]))


def _read(path: Path, *, with_rows: bool) -> tuple[list[str], list[dict[str, str]], bytes]:
    """The columns of a file, its rows if they are wanted, and its last byte."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        rows = [dict(zip(header, cells, strict=False)) for cells in reader if cells] if with_rows else []
    with path.open("rb") as raw:
        raw.seek(max(0, raw.seek(0, os.SEEK_END) - 1))
        return header, rows, raw.read(1)


def write_tasks(path: Path, tasks: Mapping[str, EmissionsData]) -> None:
    """Write the rows of all tasks of a run. Raises OSError."""
    rows = [{**data.values, "task_name": name} for name, data in tasks.items()]
    replace_file(path, _lines(TASK_COLUMNS, rows, header=True))


def _lines(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], *, header: bool = False) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _set_aside(path: Path) -> None:
    kept, number = path.with_name(f"{path.name}.bak"), 0
    while kept.exists():
        kept, number = path.with_name(f"{path.name}_{number}.bak"), number + 1
    path.rename(kept)
    log_once("%s had other columns than CodeCarbon's; it is now %s", path, kept, about=path)

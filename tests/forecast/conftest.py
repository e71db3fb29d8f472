"""Prints the score tables after the tests: a test records one with the fixture `table`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from tests.forecast.measurement import Measurement


@pytest.fixture
def table(record_property) -> Callable[[str, Sequence[str], Sequence[Sequence[object]]], None]:
    """Record a table (title, header, rows) for the end of the output."""

    def record(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        cells = [list(map(str, row)) for row in (header, *rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in cells
        ]
        record_property("table", "\n".join([title, *lines]))

    return record


@pytest.fixture
def measured(monkeypatch) -> Measurement:
    """A measurement on a virtual clock."""
    return Measurement(monkeypatch)


def pytest_terminal_summary(terminalreporter) -> None:
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "table":
                terminalreporter.write_line("")
                terminalreporter.write_line(value)

"""Collects what the benchmarks measured and prints it as one table, each figure beside its peers'.

`tests/README.md` quotes the table with its date and versions.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import pytest


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One process: a table of costs needs the whole machine."""
    return 0


_rows: list[tuple[str, str, float, str]] = []


@pytest.fixture(scope="session")
def table() -> Callable[[str, str, float, str], None]:
    """`table(task, tool, figure, unit)` adds a row."""
    return lambda task, tool, figure, unit: _rows.append((task, tool, figure, unit))


def measured_with() -> str:
    """The date and the versions, as the table of costs for readers needs them."""
    versions = [f"Python {platform.python_version()}"]
    for label, package in (
        ("opentelemetry", "opentelemetry-sdk"),
        ("codecarbon", "codecarbon"),
        ("zeus", "zeus"),
        ("mlflow", "mlflow"),
    ):
        try:
            versions.append(f"{label} {version(package)}")
        except PackageNotFoundError:
            continue
    return f"Measured on {time.strftime('%Y-%m-%d', time.gmtime())} with {', '.join(versions)}."


def pytest_terminal_summary(terminalreporter) -> None:
    write = terminalreporter.write_line
    if _rows:
        terminalreporter.section("cost, and ratio to carbon_otel in this run")
        write(measured_with())
    for task in dict.fromkeys(row[0] for row in _rows):
        figures: dict[str, list[float]] = {}
        rows = [row for row in _rows if row[0] == task]
        unit = rows[-1][3]
        for _, tool, figure, _ in rows:
            figures.setdefault(tool, []).append(figure)
        own = statistics.median(figures.get("carbon_otel", [float("nan")]))
        for tool, values in figures.items():
            middle = statistics.median(values)
            write(f"{task:<52} {tool:<24} {middle:>10.3f} {unit:<10} x{middle / own if own else 0:.2f}")

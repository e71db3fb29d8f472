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
    """One process: a table of costs needs the machine for itself."""
    return 0


_rows: list[tuple[str, str, float, str]] = []


@pytest.fixture(scope="session")
def table() -> Callable[[str, str, float, str], None]:
    """`table(what, tool, figure, unit)` adds a row."""
    return lambda what, tool, figure, unit: _rows.append((what, tool, figure, unit))


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
    for what in dict.fromkeys(row[0] for row in _rows):
        figures: dict[str, list[float]] = {}
        unit = ""
        for _, tool, figure, unit in (row for row in _rows if row[0] == what):  # noqa: B007
            figures.setdefault(tool, []).append(figure)
        ours = statistics.median(figures.get("carbon_otel", [float("nan")]))
        for tool, values in figures.items():
            middle = statistics.median(values)
            write(f"{what:<52} {tool:<24} {middle:>10.3f} {unit:<10} x{middle / ours if ours else 0:.2f}")

"""Prints the results of the replay: errors side by side, and how often the truth was inside the band."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def pytest_xdist_auto_num_workers(config):
    """One process, so that `pytest tests/replay` can print its results."""
    return 0


ERRORS: list[tuple[str, list[str]]] = []
COVERAGE: list[tuple[str, int, float, float]] = []


def percent(errors: Sequence[float | None]) -> str:
    """Median and largest relative error."""
    known = [abs(e) for e in errors if e is not None]
    if not known:
        return "not installed"
    return f"{statistics.median(known):8.2%} {max(known):9.2%}"


def pytest_terminal_summary(terminalreporter):
    if not ERRORS:
        return
    write = terminalreporter.write_line
    terminalreporter.section("replay: relative error, median and largest")
    write(f"{'':34}" + "".join(f"{name:>20}" for name in ("carbon_otel", "codecarbon", "zeus")))
    for name, cells in ERRORS:
        write(f"{name:34}" + "".join(f"{cell:>20}" for cell in cells))
    terminalreporter.section("replay: truth inside our band (k=2), and the band's mean half width")
    for name, windows, covered, width in COVERAGE:
        write(f"{name:34}{windows:6} windows {covered:8.1%} {width:9.2%}")

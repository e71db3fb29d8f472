"""The cost of a program under `carbon-otel run`, from the journals of its processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from carbon_otel.cli.output import Screen
from carbon_otel.quantities import EMISSIONS, ENERGY, column, duration, energy


def version(journal: Path | None) -> tuple[int, int] | None:
    """A value that changes whenever the journal is written; None without a journal."""
    try:
        status = journal.stat() if journal else None
    except OSError:
        return None
    return status and (status.st_ino, status.st_mtime_ns)


def show(journals: list[Path], console: Screen) -> None:
    """Print one table for each measured process."""
    if not journals:
        _say(
            console,
            "nothing was measured: no Python with carbon_otel ran, or it was killed at once",
        )
    for journal in journals:
        if len(journals) > 1:
            _say(console, f"process {journal.stem}, one of {len(journals)} measured processes")
        try:
            content = json.loads(journal.read_text("utf-8"))
            footprint, final = content["footprint"], content["status"] == "final"
        except (OSError, ValueError, KeyError, TypeError) as error:
            _say(console, f"{journal} cannot be read: {error!r}")
        else:
            _show_process(footprint, final, console)


def _show_process(footprint: dict[str, Any], final: bool, console: Screen) -> None:
    if footprint["energy_j"] is None:
        _say(console, "no energy could be read or modelled; see carbon-otel doctor")
        return
    if not final:
        _say(console, "the program was killed; the figures up to its last checkpoint are lower bounds")
    table = Table("stage", box=box.SIMPLE_HEAD)
    for title in ("energy", "emissions", "share"):
        table.add_column(title, justify="right")
    costs = [*footprint["stages"].values(), footprint]
    joules = column(ENERGY, [cost["energy_j"] for cost in costs])
    grams = column(EMISSIONS, [cost["emissions_g"] for cost in costs])
    for kind, cost, *texts in zip(footprint["stages"], costs, joules, grams, strict=False):
        share = cost["energy_j"] / footprint["energy_j"] if footprint["energy_j"] else 0.0
        table.add_row(kind, *texts, f"{share:.1%}")
    table.add_section()
    table.add_row("total", joules[-1], grams[-1], "")
    console.print(table)
    grid = footprint["intensity"]
    priced = f"grid {grid['zone']} {grid['g_per_kwh']:.1f} g/kWh, {grid['year']}" if grid else "several grids"
    console.print(
        f"{energy(footprint['energy_j'], footprint['low_j'], footprint['high_j'])} in "
        f"{duration(footprint['duration_s'])}; {footprint['measured_fraction']:.0%} measured "
        f"({footprint['method']}); {priced}",
        soft_wrap=True,
    )
    for name in ("missing", "flags"):
        if footprint[name]:
            console.print(f"{name}: {', '.join(footprint[name])}", soft_wrap=True)


def _say(console: Screen, text: str) -> None:
    console.print(f"carbon_otel: {text}", soft_wrap=True)

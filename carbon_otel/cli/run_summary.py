"""The cost of a program under `carbon-otel run`, from the journals of its processes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import psutil
from rich import box
from rich.table import Table

from carbon_otel import quantities
from carbon_otel.cli.output import Screen
from carbon_otel.provenance import Method, combined

# The rows of a table that one looks through.
_MOST_CHILDREN: Final = 10


@dataclass(frozen=True, slots=True)
class _Process:
    """A process by its journal. It was killed, or still runs, unless its figures are `final`."""

    command: str
    pid: int
    began_s: float
    final: bool
    footprint: dict[str, Any]

    @property
    def energy_j(self) -> float:
        return float(self.footprint["energy_j"])

    @property
    def emissions_g(self) -> float:
        return float(self.footprint["emissions_g"])

    @property
    def status(self) -> str:
        if self.final:
            return ""
        return "still running" if self.pid and psutil.pid_exists(self.pid) else "killed: at least"


def version(journal: Path | None) -> tuple[int, int] | None:
    """A value that changes whenever the journal is written; None without a journal."""
    try:
        status = journal.stat() if journal else None
    except OSError:
        return None
    return status and (status.st_ino, status.st_mtime_ns)


def show(journals: list[Path], console: Screen) -> None:
    """Print one table: of the stages of a process, or of the processes, the program first, and their sum."""
    if not journals:
        _say(console, "nothing was measured: no Python with carbon_otel ran, or it was killed at once")
    processes = []
    for journal in journals:
        try:
            processes.append(_read(journal))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            _say(console, f"{journal} cannot be read: {error!r}")
    known = [process for process in processes if process.footprint["energy_j"] is not None]
    if len(known) < len(processes):
        which = (
            "" if len(processes) == 1 else f" of {len(processes) - len(known)} of {len(processes)} processes"
        )
        _say(console, f"no energy{which} could be read or modelled; see carbon-otel doctor")
    if not known:
        return
    if not all(process.final for process in known):
        _say(console, _unfinished(known))
    console.print(_stages(known[0]) if len(known) == 1 else _processes(known))
    _say_how(known, console)


def _read(journal: Path) -> _Process:
    content = json.loads(journal.read_text("utf-8"))
    process = content.get("process", {})
    footprint = content["footprint"]
    for name in ("energy_j", "emissions_g", "low_j", "high_j", "stages", "duration_s", "measured_fraction"):
        footprint[name]  # an incomplete journal is named, and not half shown
    return _Process(
        str(process.get("command", journal.stem)),
        int(process.get("pid", 0)),
        float(process.get("began_unix_s", math.inf)),
        content["status"] == "final",
        footprint,
    )


def _unfinished(processes: Sequence[_Process]) -> str:
    if len(processes) == 1:
        return "the program has not ended in order; the figures up to its last checkpoint are lower bounds"
    count = sum(not process.final for process in processes)
    return (
        f"{count} of {len(processes)} processes: killed or still running; their figures up to the last checkpoint "
        "are lower bounds"
    )


def _stages(process: _Process) -> Table:
    stages = process.footprint["stages"]
    joules = quantities.unit(quantities.ENERGY, process.energy_j)
    grams = quantities.unit(quantities.EMISSIONS, process.emissions_g)
    table = Table("stage", box=box.SIMPLE_HEAD)
    for column in (f"energy, {joules.name}", f"emissions, {grams.name}", "share"):
        table.add_column(column, justify="right")
    for kind, part in stages.items():
        table.add_row(
            kind,
            joules.number(part["energy_j"]),
            grams.number(part["emissions_g"]),
            _share(part["energy_j"], process.energy_j),
        )
    table.add_section()
    table.add_row("total", joules.number(process.energy_j), grams.number(process.emissions_g), "")
    return table


def _processes(processes: Sequence[_Process]) -> Table:
    program = min(processes, key=lambda process: process.began_s)
    children = sorted((p for p in processes if p is not program), key=lambda process: -process.energy_j)
    all_j, all_g = _sums(processes)
    joules, grams = quantities.unit(quantities.ENERGY, all_j), quantities.unit(quantities.EMISSIONS, all_g)
    table = Table(box=box.SIMPLE_HEAD, expand=True)
    table.add_column("process", no_wrap=True, overflow="ellipsis", ratio=1)
    for column in ("time", f"energy, {joules.name}", f"emissions, {grams.name}", "share"):
        table.add_column(column, justify="right", no_wrap=True)
    unfinished = any(process.status for process in processes)
    if unfinished:
        table.add_column("", no_wrap=True)

    def add(name: str, group: Sequence[_Process], duration: str, status: str) -> None:
        energy_j, emissions_g = _sums(group)
        cells = [name, duration, joules.number(energy_j), grams.number(emissions_g), _share(energy_j, all_j)]
        table.add_row(*cells, *([status] if unfinished else []))

    for process in (program, *children[:_MOST_CHILDREN]):
        duration = quantities.duration(process.footprint["duration_s"])
        add(process.command, [process], duration, process.status)
    others = children[_MOST_CHILDREN:]
    if others:
        lower = sum(not process.final for process in others)
        add(f"{len(others)} others", others, "", f"{lower} of them at least" if lower else "")
    table.add_section()
    add(f"total of {len(processes)} processes", processes, "", "at least" if unfinished else "")
    return table


def _say_how(processes: Sequence[_Process], console: Screen) -> None:
    """The band of the sum, which the same sensors have measured; the method, the grid, and what is missing."""
    all_j, _ = _sums(processes)
    parts = [process.footprint for process in processes]
    low_j, high_j = (sum(part[end] for part in parts) for end in ("low_j", "high_j"))
    if not all(process.final for process in processes):
        high_j = math.inf
    measured_j = sum(part["measured_fraction"] * part["energy_j"] for part in parts)
    methods = cast("set[Method]", {tier for part in parts for tier in part["method"].split("+")})
    fraction = measured_j / all_j if all_j else parts[0]["measured_fraction"]
    began_s = min(process.began_s for process in processes)
    longest_s = max(
        (process.began_s - began_s if math.isfinite(began_s) else 0.0) + process.footprint["duration_s"]
        for process in processes
    )
    console.print(
        f"{quantities.energy(all_j, low_j, high_j)} in {quantities.duration(longest_s)}; "
        f"{fraction:.0%} measured ({combined(methods)}); {_grid(parts)}",
        soft_wrap=True,
    )
    if len(processes) > 1:
        console.print(f"stages: {_kinds(parts, all_j)}", soft_wrap=True)
    for name in ("missing", "flags"):
        found = list(dict.fromkeys(text for part in parts for text in part[name]))
        if found:
            console.print(f"{name}: {', '.join(found)}", soft_wrap=True)


def _grid(parts: Iterable[dict[str, Any]]) -> str:
    grids = [part["intensity"] for part in parts]
    if any(grid != grids[0] for grid in grids) or not grids[0]:
        return "several grids"
    return f"grid {grids[0]['zone']} {grids[0]['g_per_kwh']:.1f} g/kWh, {grids[0]['year']}"


def _kinds(parts: Iterable[dict[str, Any]], all_j: float) -> str:
    sums: dict[str, float] = {}
    for part in parts:
        for kind, cost in part["stages"].items():
            sums[kind] = sums.get(kind, 0.0) + cost["energy_j"]
    largest = sorted(sums.items(), key=lambda item: -item[1])
    return ", ".join(
        f"{kind} {quantities.energy(joules)} ({_share(joules, all_j)})" for kind, joules in largest
    )


def _sums(processes: Iterable[_Process]) -> tuple[float, float]:
    known = list(processes)
    return sum(each.energy_j for each in known), sum(each.emissions_g for each in known)


def _share(part: float, whole: float) -> str:
    return f"{part / whole if whole else 0.0:.1%}"


def _say(console: Screen, text: str) -> None:
    console.print(f"carbon_otel: {text}", soft_wrap=True)

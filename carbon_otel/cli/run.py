"""`carbon-otel run`: measure any Python program without touching it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

import carbon_otel
from carbon_otel import config
from carbon_otel.cli import autoload

_NOT_FOUND = 127
_NOT_EXECUTABLE = 126


def run(
    context: typer.Context,
    stage: Annotated[
        str | None, typer.Option(help="Measure the whole program as a stage of this kind.")
    ] = None,
    zone: Annotated[str | None, typer.Option(help="Country of the grid, such as FR.")] = None,
    pue: Annotated[float | None, typer.Option(help="Power usage effectiveness of the site.")] = None,
) -> None:
    """Run a Python program measured: carbon-otel run --stage training -- python train.py"""
    if not context.args:
        _refuse("nothing to run; write: carbon-otel run -- python train.py")
    try:
        settings = config.resolve({"zone": zone, "pue": pue})
        if stage:
            carbon_otel.stage(stage)
    except ValueError as error:
        _refuse(str(error))
    with tempfile.TemporaryDirectory(prefix="carbon_otel-") as folder:
        journal = settings.journal or Path(folder) / "footprint.json"
        environment = {**os.environ, **autoload.variables(stage, journal)}
        for name, value in {"ZONE": settings.zone, "PUE": settings.pue}.items():
            if value is not None:
                environment[config.PREFIX + name] = str(value)
        code = _wait_for(context.args, environment)
        _summarise(journal)
    raise typer.Exit(code)


def _wait_for(command: list[str], environment: Mapping[str, str]) -> int:
    """Run the program to its end; its exit code, as a shell gives it."""
    try:
        process = subprocess.Popen(command, env=environment)
    except FileNotFoundError:
        typer.echo(f"{command[0]}: command not found", err=True)
        raise typer.Exit(_NOT_FOUND) from None
    except OSError as error:
        typer.echo(f"{command[0]}: {error.strerror}", err=True)
        raise typer.Exit(_NOT_EXECUTABLE) from None
    # The terminal sends Ctrl-C to the program too; what becomes of it is the program's choice.
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    forward = signal.signal(signal.SIGTERM, lambda number, frame: process.send_signal(number))
    try:
        code = process.wait()
    finally:
        signal.signal(signal.SIGINT, previous)
        signal.signal(signal.SIGTERM, forward)
    return 128 - code if code < 0 else code


def _summarise(journal: Path) -> None:
    console = Console(stderr=True)
    found: dict[str, Any] | None = None
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(journal.read_text())
    if found is None:
        console.print("carbon_otel: nothing was measured; is the program Python, with carbon_otel installed?")
        return
    footprint = found["footprint"]
    if footprint["energy_j"] is None:
        console.print("carbon_otel: no energy could be read or modelled; see carbon-otel doctor")
        return
    if found["status"] != "final":
        console.print(
            "carbon_otel: the program was killed; these are lower bounds, as of its last checkpoint"
        )
    place = footprint["intensity"]
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("stage", "energy Wh", "emissions g", "share"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for kind, part in footprint["stages"].items():
        share = part["energy_j"] / footprint["energy_j"] if footprint["energy_j"] else 0.0
        table.add_row(kind, f"{part['energy_j'] / 3600:.4g}", f"{part['emissions_g']:.4g}", f"{share:.1%}")
    table.add_section()
    table.add_row("total", f"{footprint['energy_j'] / 3600:.4g}", f"{footprint['emissions_g']:.4g}", "")
    console.print(table)
    console.print(
        f"between {footprint['low_j'] / 3600:.4g} and {footprint['high_j'] / 3600:.4g} Wh in "
        f"{footprint['duration_s']:.1f} s; {footprint['measured_fraction']:.0%} measured ({footprint['method']}); "
        f"grid {place['zone']} {place['g_per_kwh']:.1f} g/kWh, {place['year']}",
        highlight=False,
        soft_wrap=True,
    )
    for name in ("missing", "flags"):
        if footprint[name]:
            console.print(f"{name}: {', '.join(footprint[name])}", highlight=False, soft_wrap=True)


def _refuse(message: str) -> None:
    typer.echo(message, err=True)
    raise typer.Exit(2)

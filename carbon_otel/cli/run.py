"""`carbon-otel run`: measure any Python program without changing it."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from carbon_otel import config
from carbon_otel.cli import autoload, completion, run_summary
from carbon_otel.cli.live.beside import beside
from carbon_otel.cli.output import Screen, refuse, say
from carbon_otel.config.setting import variable
from carbon_otel.stages.arguments import kind_of

_NOT_FOUND = 127
_NOT_EXECUTABLE = 126


def run(
    program: Annotated[
        list[str] | None, typer.Argument(metavar="-- PROGRAM", help="such as: python train.py --epochs 3")
    ] = None,
    stage: Annotated[
        str | None,
        typer.Option(
            help="Measure the whole program as a stage of this kind.", autocompletion=completion.kinds
        ),
    ] = None,
    zone: Annotated[
        str | None,
        typer.Option(
            help="Country of the grid, such as FR, or a grid within one, such as CA-QC.",
            autocompletion=completion.zones,
        ),
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(help="Cloud region, such as gcp:europe-west9.", autocompletion=completion.cloud_regions),
    ] = None,
    pue: Annotated[float | None, typer.Option(help="Power usage effectiveness of the site.")] = None,
    children: Annotated[
        bool,
        typer.Option("--children", help="Also measure the Python processes that it starts, such as workers."),
    ] = False,
    live: Annotated[
        bool,
        typer.Option(
            "--live",
            help="Show it while it runs, in the lowest lines of the terminal, or in a line a minute.",
        ),
    ] = False,
) -> None:
    """Run and measure any Python program and print its cost at the end. Its output and exit code do not change."""
    if not program:
        refuse("there is no program to run; write: carbon-otel run -- python train.py")
    try:
        disabled = config.disabled()
        settings = config.resolve({"zone": zone, "region": region, "pue": pue})
        if stage is not None:
            kind_of(stage)
    except ValueError as error:
        refuse(str(error))
    try:
        scratch = tempfile.TemporaryDirectory(prefix="carbon_otel-")
    except OSError as error:
        refuse(
            f"no folder for temporary files can be made ({error}); set TMPDIR to a folder that you can write"
        )
    with scratch as folder:
        environment = {**os.environ, **autoload.variables(stage, Path(folder), children)}
        journal = settings.journal and settings.journal.absolute()
        given = {"zone": zone, "region": region, "pue": pue, "journal": journal}
        environment |= {variable(name): str(value) for name, value in given.items() if value is not None}
        before = run_summary.version(settings.journal)
        with beside(settings.runtime_dir) if live and not disabled else nullcontext(_untold) as started:
            code = _wait_for(program, environment, started)
        journals = sorted(Path(folder).glob("*.json"), key=lambda file: file.stat().st_mtime_ns)
        if settings.journal and run_summary.version(settings.journal) not in (before, None):
            journals.insert(0, settings.journal)
        console = Screen(stderr=True)
        if disabled:
            console.print("carbon_otel: nothing was measured; CARBON_OTEL_DISABLED is set")
        else:
            run_summary.show(journals, console)
    raise typer.Exit(code)


def _untold(pid: int) -> None:
    """What is told of the start of a program that nobody looks at."""


def _wait_for(
    command: list[str], environment: Mapping[str, str], started: Callable[[int], object] = _untold
) -> int:
    """Run the program to its end; returns its exit code in the form of a shell.

    `started` is told its process id.
    """
    process: subprocess.Popen[bytes] | None = None
    early: list[int] = []

    def forward(number: int, frame: object) -> None:
        if process is None:
            early.append(number)
        else:
            process.send_signal(number)

    # The terminal also sends Ctrl-C to the program, which decides how to react. The handlers are functions, set
    # before the start; unlike SIG_IGN, the program does not inherit them.
    previous = {
        number: signal.signal(number, handler)
        for number, handler in ((signal.SIGINT, lambda number, frame: None), (signal.SIGTERM, forward))
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        process = subprocess.Popen(command, env=environment)
        started(process.pid)
        for number in early:
            process.send_signal(number)
        code = process.wait()
    except FileNotFoundError:
        say(f"{command[0]}: command not found{_remedy(command)}", err=True)
        raise typer.Exit(_NOT_FOUND) from None
    except OSError as error:
        say(f"{command[0]}: {error.strerror}{_remedy(command)}", err=True)
        raise typer.Exit(_NOT_EXECUTABLE) from None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return 128 - code if code < 0 else code


def _remedy(command: list[str]) -> str:
    """What to write for the file of a Python program, which is no command."""
    return f"; write: carbon-otel run -- python {shlex.join(command)}" if command[0].endswith(".py") else ""

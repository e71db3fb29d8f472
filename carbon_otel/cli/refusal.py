"""How a command ends that cannot do what it was asked for."""

from __future__ import annotations

from typing import NoReturn

import typer


def refuse(message: str, code: int = 2) -> NoReturn:
    """Print the reason to stderr and exit with that code."""
    typer.echo(message, err=True)
    raise typer.Exit(code)

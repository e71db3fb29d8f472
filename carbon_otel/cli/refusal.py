"""The end of a command that cannot do its task."""

from __future__ import annotations

from typing import NoReturn

import typer


def refuse(message: str, code: int = 2) -> NoReturn:
    """Print the reason to stderr and exit with that code."""
    typer.echo(message, err=True)
    raise typer.Exit(code)

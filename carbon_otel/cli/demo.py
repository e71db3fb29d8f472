"""`carbon-otel demo`: the example of the repository, run here."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

NAME = "random_forest.py"


def demo(
    full: Annotated[bool, typer.Option("--full", help="The published sizes, some ten minutes.")] = False,
    zone: Annotated[str | None, typer.Option(help="Country of the grid, such as FR.")] = None,
) -> None:
    """Train three random forests of growing size and compare what they cost."""
    try:
        example = _load(_source())
    except ModuleNotFoundError as error:
        typer.echo(f'{error.name} is not installed: pip install "carbon-otel[all]"', err=True)
        raise typer.Exit(2) from None
    try:
        example.main(full=full, zone=zone)
    except ValueError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None


def _source() -> Path:
    """In a wheel the example lies beside this module, in a checkout at the top."""
    packaged = Path(__file__).parent / "_examples" / NAME
    return packaged if packaged.exists() else Path(__file__).parents[2] / "examples" / NAME


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module

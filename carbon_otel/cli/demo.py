"""`carbon-otel demo`: the example of the repository, run here."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from carbon_otel import config

NAME = "random_forest.py"


def demo(
    full: Annotated[bool, typer.Option("--full", help="The published sizes, some ten minutes.")] = False,
    zone: Annotated[str | None, typer.Option(help="Country of the grid, such as FR.")] = None,
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow store for the runs, instead of MLflow's default.")
    ] = None,
) -> None:
    """Train three random forests of growing size and compare what they cost."""
    try:
        if config.disabled():
            _refuse("CARBON_OTEL_DISABLED is set; unset it to see the demo measure")
        config.resolve({"zone": zone})
    except ValueError as error:
        _refuse(str(error))
    try:
        # The imports take seconds.
        with Console(stderr=True).status("Loading MLflow and scikit-learn"):
            example = _load(_source())
    except ModuleNotFoundError as error:
        _refuse(f'{error.name} is not installed: pip install "carbon-otel[all]"')
    from mlflow.exceptions import MlflowException

    try:
        example.main(full=full, zone=zone, tracking_uri=tracking_uri)
    except MlflowException as error:
        _refuse(f"MLflow: {error}", code=1)


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


def _refuse(message: str, code: int = 2) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(code)

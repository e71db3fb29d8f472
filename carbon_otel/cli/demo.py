"""`carbon-otel demo`: run the example of the repository."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer
from rich.console import Console

from carbon_otel import config
from carbon_otel.cli.refusal import refuse

NAME = "random_forest.py"


def demo(
    full: Annotated[bool, typer.Option("--full", help="The published sizes, about ten minutes.")] = False,
    zone: Annotated[str | None, typer.Option(help="Country of the grid, such as FR.")] = None,
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow store for the runs, instead of MLflow's default.")
    ] = None,
) -> None:
    """Train three random forests of growing size and compare what they cost."""
    try:
        if config.disabled():
            refuse("CARBON_OTEL_DISABLED is set; unset it to see the demo measure")
        config.resolve({"zone": zone})
    except ValueError as error:
        refuse(str(error))
    try:
        # The imports take seconds.
        with Console(stderr=True).status("Loading MLflow and scikit-learn"):
            example = _load(_source())
    except ModuleNotFoundError as error:
        refuse(f'{error.name} is not installed: pip install "carbon-otel[all]"')
    from mlflow.exceptions import MlflowException

    try:
        example.main(full=full, zone=zone, tracking_uri=tracking_uri)
    except MlflowException as error:
        refuse(f"MLflow: {error}", code=1)


def _source() -> Path:
    """The example: beside this module in a wheel, at the top of a checkout."""
    packaged = Path(__file__).parent / "_examples" / NAME
    return packaged if packaged.exists() else Path(__file__).parents[2] / "examples" / NAME


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look up their module by name.
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module

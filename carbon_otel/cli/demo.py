"""`carbon-otel demo`: run the example of the repository and compare its runs."""

from __future__ import annotations

import importlib.util
import logging
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Final

import typer
from rich.progress import Progress

import carbon_otel
from carbon_otel import config
from carbon_otel.cli import completion, demo_table
from carbon_otel.cli.mlflow_store import require_writable
from carbon_otel.cli.output import Screen, refuse

EXAMPLE: Final = "random_forest.py"
EXPERIMENT: Final = "carbon_otel demo"
# The published sizes are those of the example times these factors.
_PUBLISHED: Final = {"intermediate": 4, "complex": 4}


def demo(
    full: Annotated[bool, typer.Option("--full", help="The published sizes, about ten minutes.")] = False,
    zone: Annotated[
        str | None, typer.Option(help="Country of the grid, such as FR.", autocompletion=completion.zones)
    ] = None,
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow store for the runs, instead of MLflow's default.")
    ] = None,
) -> None:
    """Train three random forests of growing size and compare their costs."""
    try:
        if config.disabled():
            refuse("CARBON_OTEL_DISABLED is set; unset it to see the demo measure")
        config.resolve({"zone": zone})
    except ValueError as error:
        refuse(str(error))
    try:
        # The imports take seconds.
        with Screen(stderr=True).status("Loading MLflow and scikit-learn"):
            example = load()
    except ModuleNotFoundError as error:
        refuse(f'{error.name} is not installed: pip install "carbon-otel[all]"')
    import mlflow
    from mlflow.exceptions import MlflowException

    another = 'carbon-otel demo --tracking-uri "sqlite:///$HOME/carbon_otel_demo.db"'
    require_writable(tracking_uri or mlflow.get_tracking_uri(), another)
    try:
        run(example, example.SCENARIOS, full=full, zone=zone, tracking_uri=tracking_uri)
    except MlflowException as error:
        refuse(f"MLflow: {error}", code=1)


def load() -> ModuleType:
    """The example: beside this module in a wheel, in `examples` in a checkout. Raises ModuleNotFoundError."""
    packaged = Path(__file__).parent / "_examples" / EXAMPLE
    path = packaged if packaged.exists() else Path(__file__).parents[2] / "examples" / EXAMPLE
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses need their module in `sys.modules`
    spec.loader.exec_module(module)
    return module


def run(
    example: ModuleType,
    scenarios: tuple[Any, ...],
    *,
    full: bool = False,
    zone: str | None = None,
    tracking_uri: str | None = None,
) -> list[str]:
    """Run the scenarios and print their table; returns the ids of the runs."""
    import mlflow

    for noisy in ("alembic", "mlflow.store.db.utils", "mlflow.tracking.fluent"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    console = Screen()
    carbon_otel.instrument(zone=zone)
    if tracking_uri:
        mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_experiment(EXPERIMENT)
    if full:
        scenarios = tuple(_published(scenario) for scenario in scenarios)
    else:
        for name, times in _PUBLISHED.items():
            console.print(f"{name}: samples and trees divided by {times}")
        console.print("--full runs the published sizes")
        console.line()
    with Progress(console=console) as progress:
        run_ids = [example.run_scenario(s) for s in progress.track(scenarios, description="scenarios")]
    carbon_otel.flush()
    demo_table.show(
        [mlflow.get_run(run_id) for run_id in run_ids], EXPERIMENT, mlflow.get_tracking_uri(), console
    )
    return run_ids


def _published(scenario: Any) -> Any:
    times = _PUBLISHED.get(scenario.name, 1)
    return replace(scenario, samples=scenario.samples * times, trees=scenario.trees * times)

"""`carbon-otel compare`: what MLflow runs cost, and whether their figures may be compared."""

from __future__ import annotations

import importlib.util
import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from carbon_otel.mlflow.comparison import NotMeasured, RunCost, differences, verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlflow.entities import Run


def compare(
    run_ids: Annotated[list[str] | None, typer.Argument(metavar="RUN_ID...", help="MLflow run ids.")] = None,
    experiment: Annotated[
        str | None, typer.Option(help="Compare the finished, measured runs of this experiment.")
    ] = None,
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow store, instead of MLflow's default.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Compare what runs cost, say beyond doubt or not, and whether they were measured in the same way."""
    if bool(run_ids) == bool(experiment):
        _refuse("name the runs or an experiment: carbon-otel compare RUN_ID RUN_ID, or --experiment NAME")
    if importlib.util.find_spec("mlflow") is None:
        _refuse('mlflow is not installed: pip install "carbon-otel[mlflow]"')
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        client = MlflowClient(tracking_uri)
        if experiment:
            costs = _of_experiment(client, experiment)
        else:
            costs = [_cost(client.get_run(run_id)) for run_id in run_ids or ()]
    except (MlflowException, NotMeasured) as error:
        _refuse(str(error))
    if len(costs) < 2:
        _refuse(f"{len(costs)} measured run to compare; it takes two")
    first, *others = costs
    report: dict[str, Any] = {
        "runs": [asdict(cost) for cost in costs],
        "verdicts": [verdict(first, other) for other in others],
        "not_alike": differences(costs),
    }
    if as_json:
        runs = [{k: None if v != v else v for k, v in run.items()} for run in report["runs"]]
        typer.echo(json.dumps({**report, "runs": runs}, indent=2))
    else:
        _show(costs, report)


def _of_experiment(client: Any, name: str) -> list[RunCost]:
    found = client.get_experiment_by_name(name)
    if found is None:
        _refuse(f"there is no experiment {name!r} in this store")
    runs = client.search_runs(
        [found.experiment_id], "attributes.status = 'FINISHED'", order_by=["start_time"]
    )
    costs = []
    for run in runs:
        try:
            costs.append(_cost(run))
        except NotMeasured as error:
            typer.echo(str(error), err=True)
    return costs


def _cost(run: Run) -> RunCost:
    return RunCost.of(run.info.run_id, run.info.run_name or run.info.run_id, run.data.metrics, run.data.tags)


def _show(costs: Sequence[RunCost], report: dict[str, Any]) -> None:
    console = Console(highlight=False)
    table = Table("run", box=box.SIMPLE_HEAD)
    for column in ("energy Wh", "between", "emissions g", "duration s", "measured"):
        table.add_column(column, justify="right")
    table.add_column("method", overflow="fold")
    for cost in costs:
        table.add_row(
            escape(cost.name),
            _number(cost.energy_wh),
            f"{_number(cost.low_wh)} and {_number(cost.high_wh)}",
            _number(cost.emissions_g),
            _number(cost.duration_s),
            f"{cost.measured_fraction:.0%}",
            cost.tags.get("carbon.method", "unknown"),
        )
    console.print(table)
    for line in report["verdicts"]:
        console.print(line, markup=False, soft_wrap=True)
    if report["not_alike"]:
        console.print("\nThey were not measured in the same way:")
    for line in report["not_alike"]:
        console.print(f"  {line}", markup=False, soft_wrap=True)


def _number(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{value:.4g}"


def _refuse(message: str) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(2)

"""`carbon-otel compare`: the costs of MLflow runs, and whether they are comparable."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, replace
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich import box
from rich.table import Table

from carbon_otel.cli.made import made
from carbon_otel.cli.mlflow_store import client_of, refuse_store
from carbon_otel.cli.output import Screen, refuse, say, write_json, write_page
from carbon_otel.lifecycle import better
from carbon_otel.lifecycle.comparison import NotMeasured, RunCost, differences, pareto, verdict
from carbon_otel.lifecycle.ledger import experiments_in
from carbon_otel.mlflow.compat import found_by
from carbon_otel.mlflow.schema.checked import Unreadable
from carbon_otel.pages.compare import page
from carbon_otel.quantities import EMISSIONS, ENERGY, Unit, digits, duration, unit
from carbon_otel.units import J_PER_WH

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mlflow.entities import Run


class Format(str, Enum):
    """The formats of the comparison."""

    table = "table"
    json = "json"
    html = "html"


def compare(
    run_ids: Annotated[list[str] | None, typer.Argument(metavar="RUN_ID...", help="MLflow run ids.")] = None,
    experiment: Annotated[
        str | None, typer.Option(help="Compare the finished, measured runs of this experiment.")
    ] = None,
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow store, instead of MLflow's default.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="Quality metric to compare with the emissions, such as accuracy.")
    ] = None,
    lower_is_better: Annotated[
        bool | None,
        typer.Option(
            "--lower-is-better/--higher-is-better", help="Of that metric; by default its name says it."
        ),
    ] = None,
    output: Annotated[Format, typer.Option("--format", help="html: a page in one file.")] = Format.table,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Compare the costs of runs: whether they differ by more than their bands and were measured alike."""
    if bool(run_ids) == bool(experiment):
        refuse("write run ids or an experiment: carbon-otel compare RUN_ID RUN_ID, or --experiment NAME")
    if run_ids and len(set(run_ids)) < len(run_ids):
        refuse("a run id occurs twice; write different run ids: carbon-otel compare RUN_ID RUN_ID")
    client, uri = client_of(tracking_uri)
    left_out: list[str] = []
    try:
        if experiment:
            costs = _of_experiment(client, experiment, left_out)
        else:
            costs = _measured(map(client.get_run, run_ids or ()), left_out)
    except typer.Exit:
        raise
    except Exception as error:  # noqa: BLE001 - every kind of store raises its own
        refuse_store(uri, error)
    if len(costs) < 2:
        refuse(
            f"{len(costs)} measured run; a comparison needs two: carbon-otel compare RUN_ID RUN_ID, or "
            "--experiment NAME"
        )
    costs = _with_ids(costs)
    first, *others = costs
    report: dict[str, Any] = {
        "runs": [asdict(cost) for cost in costs],
        "verdicts": [verdict(first, other) for other in others],
        "not_alike": differences(costs),
        "unreadable": left_out,
    }
    if metric:
        try:
            metrics = {cost.run_id: client.get_run(cost.run_id).data.metrics for cost in costs}
        except Exception as error:  # noqa: BLE001 - every kind of store raises its own
            refuse_store(uri, error)
        quality = {run_id: values[metric] for run_id, values in metrics.items() if metric in values}
        if not quality:
            own = sorted({name for values in metrics.values() for name in values if _is_users(name)})
            refuse(
                f"none of these runs has a metric {metric!r}; they have {', '.join(own) or 'none of yours'}"
            )
        report["trade_off"] = _trade_off(costs, metric, quality, lower_is_better)
    if as_json or output is Format.json:
        write_json(report)
    elif output is Format.html:
        _write_page(costs, report)
    else:
        _show(costs, report)


def _write_page(costs: Sequence[RunCost], report: dict[str, Any]) -> None:
    lines = report["verdicts"], report["not_alike"], report["unreadable"]
    trade_off = report.get("trade_off")
    if trade_off is None:
        write_page(page(costs, *lines, made()))
        return
    runs = trade_off["runs"]
    quality = {run_id: run["value"] for run_id, run in runs.items() if run["value"] is not None}
    front = frozenset(run_id for run_id, run in runs.items() if run["pareto"])
    metric, lower = trade_off["metric"], trade_off["lower_is_better"]
    write_page(
        page(costs, *lines, made(), metric=metric, lower_is_better=lower, quality=quality, front=front)
    )


def _is_users(metric: str) -> bool:
    return not metric.startswith(("carbon/", "system/"))


def _of_experiment(client: Any, name: str, unreadable: list[str]) -> list[RunCost]:
    """The costs of the finished, measured runs of an experiment."""
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        store = f"the MLflow store {client.tracking_uri}"
        refuse(f"there is no experiment {name!r} in {store}{experiments_in(client)}")
    ended = "attributes.status = 'FINISHED'"
    runs = found_by(client.search_runs, [experiment.experiment_id], ended, order_by=["start_time"])
    return _measured(runs, unreadable)


def _measured(runs: Iterable[Run], unreadable: list[str]) -> list[RunCost]:
    """The costs of the runs that can be compared; the others are printed."""
    costs = []
    for run in runs:
        try:
            costs.append(_cost(run))
        except NotMeasured as error:
            say(str(error), err=True)
        except Unreadable as error:
            unreadable.append(str(error))
            say(f"unreadable: {error}", err=True)
    return costs


def _trade_off(
    costs: Sequence[RunCost], metric: str, quality: dict[str, float], lower_is_better: bool | None
) -> dict[str, Any]:
    """The quality of each run, and whether the run is on the Pareto front."""
    try:
        lower = better.lower_is_better(metric) if lower_is_better is None else lower_is_better
    except ValueError as error:
        refuse(str(error))
    front = pareto(costs, quality, lower_is_better=lower)
    runs = {
        cost.run_id: {"value": quality.get(cost.run_id), "pareto": cost.run_id in front} for cost in costs
    }
    return {"metric": metric, "lower_is_better": lower, "runs": runs}


def _cost(run: Run) -> RunCost:
    """The cost of a run. Raises NotMeasured and Unreadable, with the name of the run."""
    name = run.info.run_name or run.info.run_id
    try:
        return RunCost.of(run.info.run_id, name, run.data.metrics, run.data.tags)
    except Unreadable as error:
        raise Unreadable(f"run {name} ({run.info.run_id}): {error}") from None


def _with_ids(costs: list[RunCost]) -> list[RunCost]:
    """The costs, with the run id appended to names that occur twice."""
    names = Counter(cost.name for cost in costs)
    return [
        replace(cost, name=f"{cost.name} {cost.run_id[:8]}") if names[cost.name] > 1 else cost
        for cost in costs
    ]


def _show(costs: Sequence[RunCost], report: dict[str, Any]) -> None:
    console = Screen()
    rows = [*_rows(costs), *_of_trade_off(costs, report.get("trade_off"))]
    # As many columns as are readable at the width of the console.
    beside = max(2, (console.width - 24) // 20)
    for begin in range(0, len(costs), beside):
        table = Table("", box=box.SIMPLE_HEAD)
        for cost in costs[begin : begin + beside]:
            table.add_column(cost.name, justify="right", overflow="fold")
        for label, cells in rows:
            table.add_row(label, *cells[begin : begin + beside])
        console.print(table)
    for line in report["verdicts"]:
        console.print(line, soft_wrap=True)
    if report["not_alike"]:
        console.line()
        console.print("They were not measured in the same way:")
    for line in report["not_alike"]:
        console.print(f"  {line}", soft_wrap=True)


def _rows(costs: Sequence[RunCost]) -> Iterator[tuple[str, list[str]]]:
    energy = unit(ENERGY, *(cost.energy_wh * J_PER_WH for cost in costs))
    mass = unit(EMISSIONS, *(cost.emissions_g for cost in costs))
    yield from _banded(
        f"energy, {energy.name}",
        energy,
        [
            (cost.energy_wh * J_PER_WH, cost.low_wh * J_PER_WH, _high(cost, cost.high_wh * J_PER_WH))
            for cost in costs
        ],
    )
    yield from _banded(
        f"emissions, {mass.name} CO2e",
        mass,
        [(cost.emissions_g, cost.low_g, _high(cost, cost.high_g)) for cost in costs],
    )
    yield "duration", [duration(cost.duration_s) for cost in costs]
    yield "measured by a sensor", [_share(cost.measured_fraction) for cost in costs]
    for label, tag in _TAGS.items():
        yield label, [cost.tags.get(f"carbon.{tag}", "unknown") for cost in costs]


def _high(cost: RunCost, value: float) -> float:
    """The upper end of the band; a lower bound has none."""
    return math.nan if cost.lower_bound else value


def _banded(
    label: str, chosen: Unit, bands: Sequence[tuple[float, float, float]]
) -> Iterator[tuple[str, list[str]]]:
    known = [digits(*band) for band in bands]
    for name, values in zip((label, "  at least", "  at most"), zip(*bands, strict=True), strict=True):
        yield name, list(map(chosen.number, values, known))


def _of_trade_off(
    costs: Sequence[RunCost], trade_off: dict[str, Any] | None
) -> Iterator[tuple[str, list[str]]]:
    if trade_off:
        of_runs = [trade_off["runs"][cost.run_id] for cost in costs]
        values = ["unknown" if run["value"] is None else f"{run['value']:.4g}" for run in of_runs]
        yield trade_off["metric"], values
        better_if = "lower" if trade_off["lower_is_better"] else "higher"
        yield f"  {better_if} is better", []
        yield "on the Pareto front", ["yes" if run["pareto"] else "" for run in of_runs]


def _share(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{value:.0%}"


_TAGS: Final = {
    "method": "method",
    "grid": "zone",
    "  g/kWh": "intensity_g_per_kwh",
    "  source": "intensity_source",
    "PUE": "pue",
    "attribution": "attribution",
    "hardware": "hardware",
}

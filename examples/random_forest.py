"""Three random forests, measured from data to inference: what does a bigger model cost, and what does it bring?

    python examples/random_forest.py            # about a minute on two cores
    python examples/random_forest.py --full     # the published sizes: some ten minutes

Each scenario is an MLflow run with three stages. The figures in the table at the end are read back from the runs.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import mlflow
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

import carbon_otel

STAGES = ("data_processing", "training", "inference")
EXPERIMENT = "carbon_otel demo"


@dataclass(frozen=True)
class Scenario:
    """Published sizes, and by how much the default scale divides them."""

    name: str
    samples: int
    trees: int
    depth: int | None
    fewer_samples: int
    fewer_trees: int

    def scaled(self) -> Scenario:
        samples, trees = self.samples // self.fewer_samples, self.trees // self.fewer_trees
        return Scenario(self.name, samples, trees, self.depth, 1, 1)


SCENARIOS = (
    Scenario("basic", 10_000, 100, 5, 1, 1),
    Scenario("intermediate", 50_000, 500, 10, 2, 2),
    Scenario("complex", 100_000, 1000, None, 2, 8),
)


def run_scenario(scenario: Scenario, progress: Progress) -> str:
    """Train and score one forest as one MLflow run; returns the run's id."""
    task = progress.add_task(scenario.name, total=len(STAGES), stage="")
    with mlflow.start_run(run_name=scenario.name) as run:
        mlflow.log_params({"samples": scenario.samples, "trees": scenario.trees, "max_depth": scenario.depth})

        progress.update(task, stage="data_processing")
        with carbon_otel.stage("data_processing") as s:
            X, y = make_classification(  # noqa: N806
                n_samples=scenario.samples, n_features=50, n_informative=40, random_state=42
            )
            X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=42)  # noqa: N806
            scaler = StandardScaler().fit(X_train)
            X_train, X_test = scaler.transform(X_train), scaler.transform(X_test)  # noqa: N806
            s.units(samples=scenario.samples)

        progress.update(task, advance=1, stage="training")
        with carbon_otel.stage("training") as s:
            model = RandomForestClassifier(
                scenario.trees, max_depth=scenario.depth, n_jobs=-1, random_state=42
            )
            model.fit(X_train, y_train)
            s.units(samples=len(X_train))

        progress.update(task, advance=1, stage="inference")
        with carbon_otel.stage("inference") as s:
            accuracy = model.score(X_test, y_test)
            s.units(samples=len(X_test))

        mlflow.log_metric("accuracy", accuracy)
        progress.update(task, advance=1, stage="done")
    return run.info.run_id


def report(run_ids: list[str], console: Console) -> None:
    """Print the table and where its figures come from, from what the runs have in MLflow."""
    runs = [mlflow.get_run(run_id) for run_id in run_ids]
    table = Table("", *(run.info.run_name for run in runs), title="Energy and emissions", box=box.SIMPLE_HEAD)
    for column in table.columns[1:]:
        column.justify = "right"

    def row(label: str, figure: Callable[[Mapping[str, float], Mapping[str, str]], str]) -> None:
        table.add_row(label, *(figure(run.data.metrics, run.data.params) for run in runs))

    row("samples", lambda metrics, params: params["samples"])
    row("trees", lambda metrics, params: params["trees"])
    row("duration, s", lambda metrics, params: f"{metrics['carbon/duration_s']:.1f}")
    row("energy, Wh", lambda metrics, params: f"{metrics['carbon/energy_wh']:.4g}")
    row("  between", lambda metrics, params: f"{metrics['carbon/energy_low_wh']:.4g}")
    row("  and", lambda metrics, params: f"{metrics['carbon/energy_high_wh']:.4g}")
    row("emissions, g CO2e", lambda metrics, params: f"{metrics['carbon/emissions_g']:.4g}")
    row(
        "  per 1,000 samples",
        lambda m, params: f"{m['carbon/emissions_g'] / int(params['samples']) * 1000:.3g}",
    )
    row("accuracy", lambda metrics, params: f"{metrics['accuracy']:.3f}")
    for stage in STAGES:
        key = f"carbon/{stage}/energy_wh"
        row(f"share of {stage}", lambda m, params, key=key: f"{m[key] / m['carbon/energy_wh']:.1%}")
    console.print(table)
    tags = runs[-1].data.tags
    console.print(
        f"Measured: {float(tags['carbon.measured_fraction']):.0%} of the energy; method {tags['carbon.method']}; "
        f"hardware {tags['carbon.hardware']}.",
        f"Grid: {tags['carbon.zone']}, {tags['carbon.intensity_g_per_kwh']} g/kWh, PUE {tags['carbon.pue']} "
        f"({tags['carbon.intensity_source']}, {tags['carbon.intensity_year']}).",
        sep="\n",
        highlight=False,
    )
    console.print(
        f"\nCompare the runs:  mlflow ui --backend-store-uri {mlflow.get_tracking_uri()}", soft_wrap=True
    )


def main(
    full: bool = False, zone: str | None = None, scenarios: tuple[Scenario, ...] = SCENARIOS
) -> list[str]:
    """Run all scenarios and report; returns the ids of the runs."""
    for noisy in ("alembic", "mlflow.store.db.utils", "mlflow.tracking.fluent"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    console = Console()
    carbon_otel.instrument(zone=zone)
    mlflow.set_experiment(EXPERIMENT)
    if not full:
        for s in (s for s in scenarios if s.fewer_samples * s.fewer_trees > 1):
            console.print(
                f"{s.name}: samples divided by {s.fewer_samples}, trees by {s.fewer_trees}", highlight=False
            )
        console.print("--full runs the published sizes\n", highlight=False)
        scenarios = tuple(s.scaled() for s in scenarios)
    columns = (TextColumn("{task.description:<13}"), BarColumn(), TextColumn("{task.fields[stage]:<16}"))
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        run_ids = [run_scenario(scenario, progress) for scenario in scenarios]
    report(run_ids, console)
    carbon_otel.flush()
    return run_ids


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="the published sizes instead of about a minute")
    parser.add_argument("--zone", help="country whose grid the emissions are computed with, such as FR")
    main(**vars(parser.parse_args()))

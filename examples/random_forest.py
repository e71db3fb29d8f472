"""Three random forests, measured from data to inference: what does a bigger model cost, and what does it bring?

    python examples/random_forest.py            # about a minute on two cores
    python examples/random_forest.py --full     # the published sizes: some ten minutes

Each scenario is an MLflow run with three stages. The figures in the table at the end are read back from the runs.
"""

from __future__ import annotations

import argparse
import json
import logging
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

import mlflow
from mlflow.entities import Run, RunData
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
    """Published sizes; the default scale divides samples and trees by `divisor`."""

    name: str
    samples: int
    trees: int
    depth: int | None
    divisor: int = 1

    def scaled(self) -> Scenario:
        return Scenario(self.name, self.samples // self.divisor, self.trees // self.divisor, self.depth)


SCENARIOS = (
    Scenario("basic", 10_000, 100, 5),
    Scenario("intermediate", 50_000, 500, 10, divisor=4),
    Scenario("complex", 100_000, 1000, None, divisor=4),
)


def run_scenario(scenario: Scenario, progress: Progress) -> str:
    """Train and score one forest as one MLflow run; returns the run's id."""
    task = progress.add_task(scenario.name, total=len(STAGES), stage="")
    with mlflow.start_run(run_name=scenario.name) as run:
        mlflow.log_params({"samples": scenario.samples, "trees": scenario.trees, "max_depth": scenario.depth})

        progress.update(task, stage="data_processing")
        with carbon_otel.stage("data_processing") as s:
            features, labels = make_classification(
                n_samples=scenario.samples, n_features=50, n_informative=40, random_state=42
            )
            train, test, train_labels, test_labels = train_test_split(features, labels, random_state=42)
            scaler = StandardScaler().fit(train)
            train, test = scaler.transform(train), scaler.transform(test)
            s.units(samples=scenario.samples)

        progress.update(task, advance=1, stage="training")
        with carbon_otel.stage("training") as s:
            model = RandomForestClassifier(
                scenario.trees, max_depth=scenario.depth, n_jobs=-1, random_state=42
            )
            model.fit(train, train_labels)
            s.units(samples=len(train))

        progress.update(task, advance=1, stage="inference")
        with carbon_otel.stage("inference") as s:
            accuracy = model.score(test, test_labels)
            s.units(samples=len(test))

        mlflow.log_metric("accuracy", accuracy)
        progress.update(task, advance=1, stage="done")
    return run.info.run_id


def report(runs: list[Run], console: Console) -> None:
    """Print what the runs have in MLflow: the figures, and where they come from."""
    table = Table("", *(run.info.run_name for run in runs), title="Energy and emissions", box=box.SIMPLE_HEAD)
    for column in table.columns[1:]:
        column.justify = "right"

    def row(label: str, text: Callable[[RunData], str]) -> None:
        table.add_row(label, *(text(run.data) for run in runs))

    def share(stage: str) -> Callable[[RunData], str]:
        return lambda d: f"{d.metrics[f'carbon/{stage}/energy_wh'] / d.metrics['carbon/energy_wh']:.1%}"

    row("samples", lambda d: f"{int(d.params['samples']):,}")
    row("trees", lambda d: f"{int(d.params['trees']):,}")
    row("depth", lambda d: d.params["max_depth"].replace("None", "unlimited"))
    row("duration, s", lambda d: f"{d.metrics['carbon/duration_s']:.1f}")
    row("energy, Wh", lambda d: f"{d.metrics['carbon/energy_wh']:.4g}")
    row("  at least", lambda d: f"{d.metrics['carbon/energy_low_wh']:.4g}")
    row("  at most", lambda d: f"{d.metrics['carbon/energy_high_wh']:.4g}")
    row("  measured by a sensor", lambda d: f"{float(d.tags['carbon.measured_fraction']):.0%}")
    row("emissions, g CO2e", lambda d: f"{d.metrics['carbon/emissions_g']:.4g}")
    row("  per 1,000 samples", lambda d: f"{d.metrics['carbon/emissions_g'] / int(d.params['samples']) * 1e3:.4g}")
    row("accuracy", lambda d: f"{d.metrics['accuracy']:.3f}")
    for stage in STAGES:
        row(f"share of {stage}", share(stage))
    row("share between the stages", share("run"))
    console.print(table)

    tags = runs[0].data.tags
    methods = ", ".join(dict.fromkeys(run.data.tags["carbon.method"] for run in runs))
    console.print(
        f"Method: {methods}, on {tags['carbon.hardware']}.",
        f"Grid: {tags['carbon.zone']}, {tags['carbon.intensity_g_per_kwh']} g/kWh, PUE {tags['carbon.pue']} "
        f"({tags['carbon.intensity_source']}, {tags['carbon.intensity_year']}).",
        sep="\n",
    )
    uri = mlflow.get_tracking_uri()
    ids = quote(json.dumps([run.info.run_id for run in runs], separators=(",", ":")))
    page = f"#/compare-runs?runs={ids}&experiments={quote(json.dumps([runs[0].info.experiment_id]))}"
    if uri.startswith("http"):
        console.print(f"\nCompare the runs: {uri.rstrip('/')}/{page}", soft_wrap=True)
    else:
        console.print(f"\nCompare the runs: mlflow ui --backend-store-uri {shlex.quote(uri)}", soft_wrap=True)
        console.print(f"and then open:    http://127.0.0.1:5000/{page}", soft_wrap=True)


def main(
    full: bool = False,
    zone: str | None = None,
    tracking_uri: str | None = None,
    scenarios: tuple[Scenario, ...] = SCENARIOS,
) -> list[str]:
    """Run all scenarios and report; returns the ids of the runs."""
    for noisy in ("alembic", "mlflow.store.db.utils", "mlflow.tracking.fluent"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    console = Console(highlight=False)
    carbon_otel.instrument(zone=zone)
    if tracking_uri:
        mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_experiment(EXPERIMENT)
    if not full:
        for s in (s for s in scenarios if s.divisor > 1):
            console.print(f"{s.name}: samples and trees divided by {s.divisor}")
        console.print("--full runs the published sizes\n")
        scenarios = tuple(s.scaled() for s in scenarios)
    columns = (TextColumn("{task.description:<13}"), BarColumn(), TextColumn("{task.fields[stage]:<16}"))
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        run_ids = [run_scenario(scenario, progress) for scenario in scenarios]
    carbon_otel.flush()
    report([mlflow.get_run(run_id) for run_id in run_ids], console)
    return run_ids


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="the published sizes instead of about a minute")
    parser.add_argument("--zone", help="country whose grid the emissions are computed with, such as FR")
    parser.add_argument("--tracking-uri", help="MLflow store for the runs, instead of MLflow's default")
    main(**vars(parser.parse_args()))

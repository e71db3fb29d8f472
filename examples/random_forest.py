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
from dataclasses import dataclass
from urllib.parse import quote

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


def report(runs: list[mlflow.entities.Run], console: Console) -> None:
    """Print what the runs have in MLflow: the figures, and where they come from."""
    table = Table("", *(run.info.run_name for run in runs), title="Energy and emissions", box=box.SIMPLE_HEAD)
    for column in table.columns[1:]:
        column.justify = "right"

    params, metrics, tags = zip(*((r.data.params, r.data.metrics, r.data.tags) for r in runs), strict=True)
    table.add_row("samples", *(f"{int(p['samples']):,}" for p in params))
    table.add_row("trees", *(f"{int(p['trees']):,}" for p in params))
    table.add_row("depth", *(p["max_depth"].replace("None", "unlimited") for p in params))
    table.add_row("duration, s", *(f"{m['carbon/duration_s']:.1f}" for m in metrics))
    table.add_row("energy, Wh", *(f"{m['carbon/energy_wh']:.4g}" for m in metrics))
    table.add_row("  at least", *(f"{m['carbon/energy_low_wh']:.4g}" for m in metrics))
    table.add_row("  at most", *(f"{m['carbon/energy_high_wh']:.4g}" for m in metrics))
    table.add_row("  measured by a sensor", *(f"{float(t['carbon.measured_fraction']):.0%}" for t in tags))
    table.add_row("emissions, g CO2e", *(f"{m['carbon/emissions_g']:.4g}" for m in metrics))
    per_sample = (m["carbon/emissions_g"] / int(p["samples"]) for m, p in zip(metrics, params, strict=True))
    table.add_row("  per 1,000 samples", *(f"{1000 * grams:.4g}" for grams in per_sample))
    table.add_row("accuracy", *(f"{m['accuracy']:.3f}" for m in metrics))
    for part, label in (*zip(STAGES, STAGES, strict=True), ("run", "the run between them")):
        shares = (m[f"carbon/{part}/energy_wh"] / m["carbon/energy_wh"] for m in metrics)
        table.add_row(f"share of {label}", *(f"{share:.1%}" for share in shares))
    console.print(table)
    about = {name.removeprefix("carbon."): tag for name, tag in tags[0].items()}
    console.print(f"Method: {about['method']}, on {about['hardware']}.")
    console.print(
        f"Grid: {about['zone']}, {about['intensity_g_per_kwh']} g/kWh, PUE {about['pue']} "
        f"({about['intensity_source']}, {about['intensity_year']})."
    )
    uri = mlflow.get_tracking_uri()
    ids = quote(json.dumps([run.info.run_id for run in runs], separators=(",", ":")))
    page = f"#/compare-runs?runs={ids}&experiments={quote(json.dumps([runs[0].info.experiment_id]))}"
    if not uri.startswith("http"):
        console.print(f"\nSee the runs:  mlflow ui --backend-store-uri {shlex.quote(uri)}", soft_wrap=True)
        uri = "http://127.0.0.1:5000"
    console.print(f"Compare them:  {uri.rstrip('/')}/{page}", soft_wrap=True)


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
    bar = TextColumn("{task.description:<13}"), BarColumn(), TextColumn("{task.fields[stage]:<16}")
    with Progress(*bar, TimeElapsedColumn(), console=console) as progress:
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

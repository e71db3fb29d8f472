"""Three random forests, measured from data to inference: what does a bigger model cost, and what does it bring?

    python examples/random_forest.py

Each scenario is an MLflow run with three stages; the training is forecast from a small part of it. `carbon-otel
demo` runs the same scenarios and compares them in a table.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlflow
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

import carbon_otel


@dataclass(frozen=True)
class Scenario:
    """A size of the data and of the forest."""

    name: str
    samples: int
    trees: int
    depth: int | None


SCENARIOS = (
    Scenario("basic", 10_000, 100, 5),
    Scenario("intermediate", 12_500, 125, 10),
    Scenario("complex", 25_000, 250, None),
)


def run_scenario(scenario: Scenario) -> str:
    """Train and score one forest as one MLflow run; returns the id of the run."""
    with mlflow.start_run(run_name=scenario.name) as run:
        mlflow.log_params({"samples": scenario.samples, "trees": scenario.trees, "max_depth": scenario.depth})

        with carbon_otel.stage("data_processing") as stage:
            features, labels = make_classification(
                n_samples=scenario.samples, n_features=50, n_informative=40, random_state=42
            )
            train, test, train_labels, test_labels = train_test_split(features, labels, random_state=42)
            scaler = StandardScaler().fit(train)
            train, test = scaler.transform(train), scaler.transform(test)
            stage.units(samples=scenario.samples)

        model = RandomForestClassifier(scenario.trees, max_depth=scenario.depth, n_jobs=-1, random_state=42)
        # The run gets the forecast, and at its end the difference from what was measured.
        carbon_otel.forecast(model, train, train_labels)

        with carbon_otel.stage("training") as stage:
            model.fit(train, train_labels)
            stage.units(samples=len(train))

        with carbon_otel.stage("inference") as stage:
            mlflow.log_metric("accuracy", model.score(test, test_labels))
            stage.units(samples=len(test))
    return run.info.run_id


def main() -> None:
    """Run all scenarios and print the figures that MLflow has of them."""
    carbon_otel.instrument()
    mlflow.set_experiment("carbon_otel demo")
    for scenario in SCENARIOS:
        metrics = mlflow.get_run(run_scenario(scenario)).data.metrics
        print(
            f"{scenario.name}: accuracy {metrics['accuracy']:.3f}, training forecast "
            f"{metrics['carbon/forecast/delta']:+.0%} off, {metrics['carbon/energy_wh']:.4g} Wh, "
            f"{metrics['carbon/emissions_g']:.4g} g CO2e"
        )


if __name__ == "__main__":
    main()

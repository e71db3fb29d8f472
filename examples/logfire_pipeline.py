"""A small pipeline whose stages, figures and metrics appear in Logfire.

    python examples/logfire_pipeline.py          # prints the spans; without a token nothing leaves
    LOGFIRE_TOKEN=... python examples/logfire_pipeline.py

Logfire is configured first: measuring then goes to its providers. With `collect_in_spans` it adds the joules of a
stage up into every span around it.
"""

from __future__ import annotations

import logfire
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split

import carbon_otel


def main() -> carbon_otel.Footprint:
    """Run the pipeline; returns the footprint of its training."""
    logfire.configure(
        send_to_logfire="if-token-present",
        service_name="forest",
        metrics=logfire.MetricsOptions(collect_in_spans=True),
    )
    carbon_otel.instrument(zone="FR")

    with logfire.span("pipeline"):
        with carbon_otel.stage("data_processing") as s:
            features, labels = make_classification(n_samples=5_000, n_features=20, random_state=0)
            train, test, train_labels, test_labels = train_test_split(features, labels, random_state=0)
            s.units(samples=len(features))

        model = RandomForestClassifier(100, n_jobs=-1, random_state=0)
        with carbon_otel.stage("training", "rf") as training:
            model.fit(train, train_labels)
            training.units(samples=len(train))

        with carbon_otel.stage("evaluation", "rf"):
            logfire.info("accuracy {accuracy:.3f}", accuracy=model.score(test, test_labels))

    carbon_otel.flush()
    return training.footprint


if __name__ == "__main__":
    print(f"training: {main().energy_wh:.3g} Wh")

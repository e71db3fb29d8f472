"""What MLflow has of a run, by the names of carbon_otel: pages show a part of it."""

from __future__ import annotations

from typing import Any

from carbon_otel.mlflow.schema import contributions


def figures(run: Any) -> dict[str, float]:
    """The figures of a run."""
    return contributions.figures_and_tags(run.data.metrics, run.data.tags)[0]


def tags(run: Any) -> dict[str, str]:
    """The tags of a run, hidden ones too."""
    return contributions.figures_and_tags(run.data.metrics, run.data.tags)[1]

"""The points of metrics that show figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from carbon_otel.mlflow import compat
from carbon_otel.mlflow.schema import names, pages


def new(figures: Mapping[str, float], step: int, at_ms: int, begin_ms: int, begun: set[str]) -> list[Any]:
    """MLflow's metrics for those of the figures that a page shows, in the order of the page.

    A sum that is not yet in `begun`, by the name of its metric, gets its zero at `begin_ms`, the start of its run
    in milliseconds since the epoch; none if that is 0. What gets one is added to `begun`.
    """
    from mlflow.entities import Metric

    points = []
    for figure in sorted(figures, key=pages.order):
        name = pages.metric(figure)
        if name is None:
            continue
        if begin_ms and pages.is_sum(figure) and name not in begun:
            begun.add(name)
            points.append(Metric(name, 0.0, min(begin_ms, at_ms), 0))
        points.append(Metric(name, figures[figure], at_ms, names.step(figure, step)))
    return points


def of(data: Any) -> list[compat.MetricPoint]:
    """The latest point of each metric of carbon_otel, from the data of a run."""
    return [point for point in compat.metric_points(data) if pages.figure(point.key) is not None]

"""Repeats of programs in turn, each an MLflow run, so that a drift of the host meets all of them."""

from __future__ import annotations

from collections.abc import Callable

import mlflow

import carbon_otel


def in_turn(experiment: str, repeats: int, **programs: Callable[[], float]) -> None:
    """Run each program so many times, as runs with its name. It returns an accuracy, which is logged."""
    for program in programs.values():
        program()  # not measured: the first call loads libraries and fills caches
    # The process pays for its own CPU time, so that a busy neighbour does not count.
    carbon_otel.instrument(attribution="process")
    mlflow.set_experiment(experiment)
    for _ in range(repeats):
        for name, program in programs.items():
            with mlflow.start_run(run_name=name):
                mlflow.log_metric("accuracy", program())
    carbon_otel.flush()

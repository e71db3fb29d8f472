"""Repeats of programs in turn, each an MLflow run, so that a drift of the host meets all of them."""

from __future__ import annotations

from collections.abc import Callable

import mlflow
from threadpoolctl import threadpool_limits

import carbon_otel


def begin(experiment: str) -> None:
    """Measure from here on, by the CPU time of this process: what a busy neighbour uses does not count.

    One thread computes. Threads that wait for each other use CPU time too, and on a busy machine most of it.
    """
    threadpool_limits(1)
    carbon_otel.instrument(attribution="process")
    mlflow.set_experiment(experiment)


def in_turn(repeats: int, **programs: Callable[[], float]) -> None:
    """Run each program so many times, as runs with its name. It returns an accuracy, which is logged."""
    with mlflow.start_run(run_name="warm-up"):  # the first calls load libraries and fill caches
        for program in programs.values():
            program()
    for _ in range(repeats):
        for name, program in programs.items():
            with mlflow.start_run(run_name=name):
                mlflow.log_metric("accuracy", program())
    carbon_otel.flush()

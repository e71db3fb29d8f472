"""A pytest plugin for suites of other projects: measures the tests, if asked, and writes what became of them.

The environment says how: `UPSTREAM_OUTCOMES` is the file to write, and `UPSTREAM_INSTRUMENT` is set if the tests
are to run under `carbon_otel.instrument()`. With `UPSTREAM_STAGES`, calls of MLflow's client are stages, so the
runs have figures. The file has the outcome and the seconds of each test by its id, the number of stages of each
kind, and the measured energy.

It is no module of our package `tests`: suites of other projects have packages of that name.
"""

from __future__ import annotations

import functools
import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import carbon_otel

_stages: Counter[str] = Counter()
_outcomes: dict[str, str] = {}
_seconds: Counter[str] = Counter()
_CALLS = ("log_metric", "log_batch", "log_param", "set_tag", "log_inputs", "get_experiment", "start_trace")


def pytest_configure(config: pytest.Config) -> None:
    if "UPSTREAM_INSTRUMENT" in os.environ:
        from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

        class Count(SpanProcessor):
            def on_end(self, span):
                _stages[str(span.attributes.get("carbon_otel.stage.kind"))] += 1

        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(Count())
        carbon_otel.instrument(zone="FR", tracer_provider=provider)
    if "UPSTREAM_STAGES" in os.environ:
        from mlflow import MlflowClient

        for name in _CALLS:
            setattr(MlflowClient, name, _as_stage(getattr(MlflowClient, name)))


def _as_stage(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*args, **kwargs):
        with carbon_otel.stage("training"):
            return method(*args, **kwargs)

    return call


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: Any) -> None:
    """A worker of pytest-xdist has ended."""
    _stages.update(node.workeroutput.get("stages", {}))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.outcome != "passed":
        # A test that is expected to fail may also pass.
        _outcomes[report.nodeid] = "expected" if hasattr(report, "wasxfail") else report.outcome
    _seconds[report.nodeid] += report.duration


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["stages"] = dict(_stages)


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        energy_j = carbon_otel.footprint().energy_j if "UPSTREAM_INSTRUMENT" in os.environ else 0.0
        written = {"outcomes": _outcomes, "seconds": _seconds, "stages": _stages, "energy_j": energy_j}
        Path(os.environ["UPSTREAM_OUTCOMES"]).write_text(json.dumps(written))
    carbon_otel.uninstrument()

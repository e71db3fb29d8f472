"""A pytest plugin for suites of other projects: measures the tests, if asked, and writes what became of them.

The environment says how: `UPSTREAM_OUTCOMES` is the file to write, and `UPSTREAM_INSTRUMENT` is set if the tests
are to run under `carbon_otel.instrument()`. The file has the outcome of each test by its id, and the number of
stages of each kind.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import carbon_otel

_stages: Counter[str] = Counter()
_outcomes: dict[str, str] = {}


def pytest_configure(config: pytest.Config) -> None:
    if "UPSTREAM_INSTRUMENT" in os.environ:
        from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

        class Count(SpanProcessor):
            def on_end(self, span):
                _stages[str(span.attributes.get("carbon_otel.stage.kind"))] += 1

        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(Count())
        carbon_otel.instrument(zone="FR", tracer_provider=provider)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: Any) -> None:
    """A worker of pytest-xdist has ended."""
    _stages.update(node.workeroutput.get("stages", {}))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.outcome != "passed":
        # A test that is expected to fail may also pass.
        _outcomes[report.nodeid] = "expected" if hasattr(report, "wasxfail") else report.outcome


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["stages"] = dict(_stages)


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        written = {"outcomes": _outcomes, "stages": dict(_stages)}
        Path(os.environ["UPSTREAM_OUTCOMES"]).write_text(json.dumps(written))
    carbon_otel.uninstrument()

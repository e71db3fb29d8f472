"""Which providers get the telemetry, and what the log says of them: every combination for the two signals."""

from __future__ import annotations

import itertools
import logging

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import carbon_otel

WAYS = ("none", "before", "after", "explicit")


@pytest.fixture
def setters(monkeypatch):
    """The global providers of the API, which can be set once in a process, set anew for each test."""
    current = {"tracer": trace.ProxyTracerProvider(), "meter": metrics.get_meter_provider()}
    assert type(current["meter"]).__name__ == "_ProxyMeterProvider"
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: current["tracer"])
    monkeypatch.setattr(metrics, "get_meter_provider", lambda: current["meter"])
    return current


class Application:
    def __init__(self):
        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracer = TracerProvider(shutdown_on_exit=False)
        self.tracer.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.meter = MeterProvider([self.reader], shutdown_on_exit=False)

    def has(self, signal):
        if signal == "tracer":
            return bool(self.exporter.get_finished_spans())
        return self.reader.get_metrics_data() is not None


def run(way, application, setters, monkeypatch, **variables):
    """Run a stage; `way` is when each signal's provider is set."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    explicit = {
        f"{signal}_provider": getattr(application, signal) for signal in way if way[signal] == "explicit"
    }
    setters.update({signal: getattr(application, signal) for signal in way if way[signal] == "before"})
    carbon_otel.instrument(zone="FR", interval_s=30, **explicit)
    setters.update({signal: getattr(application, signal) for signal in way if way[signal] == "after"})
    with carbon_otel.stage("training"):
        pass
    assert carbon_otel.flush()
    found = {signal: application.has(signal) for signal in way}
    carbon_otel.uninstrument()
    return found


def late(caplog):
    return [r.getMessage() for r in caplog.records if "after carbon_otel.instrument()" in r.getMessage()]


@pytest.mark.parametrize(("traces", "of_metrics"), list(itertools.product(WAYS, WAYS)))
def test_with_an_endpoint(traces, of_metrics, setters, sink, monkeypatch, caplog):
    """What the application has set by then gets its signal; the endpoint gets the rest."""
    way = {"tracer": traces, "meter": of_metrics}
    application = Application()
    with caplog.at_level(logging.WARNING):
        found = run(way, application, setters, monkeypatch, OTEL_EXPORTER_OTLP_ENDPOINT=sink.url)
    for signal, sent in (("tracer", sink.spans()), ("meter", sink.exports())):
        assert found[signal] is (way[signal] in ("before", "explicit"))
        assert bool(sent) is not found[signal]
    afterwards = [signal for signal in way if way[signal] == "after"]
    whose = f"its {' and '.join(afterwards)} provider{'s' * (len(afterwards) == 2)} "
    assert [whose in line for line in late(caplog)] == [True] * bool(afterwards)


@pytest.mark.parametrize(("traces", "of_metrics"), list(itertools.product(WAYS, WAYS)))
def test_without_an_endpoint(traces, of_metrics, setters, monkeypatch, caplog):
    """What the application sets, whenever, gets its signal, and nothing is said."""
    way = {"tracer": traces, "meter": of_metrics}
    application = Application()
    with caplog.at_level(logging.WARNING):
        found = run(way, application, setters, monkeypatch)
    # The API's proxies forward to the real globals, which this process cannot set for one test only.
    for signal in way:
        if way[signal] in ("before", "explicit"):
            assert found[signal]
    assert late(caplog) == []


def test_a_tracer_provider_of_mlflow_is_not_the_applications(setters, sink, monkeypatch, caplog):
    """MLflow sets a global one of its own where it shares it with the application."""
    processors = pytest.importorskip("mlflow.tracing.processor.mlflow_v3", exc_type=ImportError)

    mlflows = TracerProvider(shutdown_on_exit=False)
    mlflows.add_span_processor(processors.MlflowV3SpanProcessor(InMemorySpanExporter(), False))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", sink.url)
    carbon_otel.instrument(zone="FR", interval_s=30)
    setters["tracer"] = mlflows
    carbon_otel.flush()
    assert late(caplog) == []

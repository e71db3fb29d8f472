"""Exemplars of the counters of stages, in exports that follow each other faster than a scrape."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider

from carbon_otel.otel.exemplars import views
from carbon_otel.otel.instruments import instruments_of

COUNTERS = {"carbon_otel.stage.energy", "carbon_otel.stage.emissions", "carbon_otel.stage.units"}


@pytest.fixture
def reader():
    return InMemoryMetricReader()


@pytest.fixture
def made(reader):
    provider = MeterProvider([reader], views=views(), shutdown_on_exit=False)
    yield instruments_of(provider)
    provider.shutdown()


def spans_in(reader):
    """The spans of the exemplars in the next export, by metric and stage."""
    return {
        (metric.name, point.attributes["stage"]): [exemplar.span_id for exemplar in point.exemplars]
        for resource in reader.get_metrics_data().resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name in COUNTERS
        for point in metric.data.data_points
    }


def test_each_stage_keeps_its_last_exemplar_in_every_export(reader, made):
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")

    def run(stage):
        with tracer.start_as_current_span(stage) as span:
            for counter in (made.stage_energy, made.emissions, made.units):
                counter.add(1, {"stage": stage})
        return [span.get_span_context().span_id]

    def both(load, fit):
        spans = {"load": load, "fit": fit}
        return {(counter, stage): spans[stage] for counter in COUNTERS for stage in spans}

    load, fit = run("load"), run("fit")
    assert spans_in(reader) == both(load, fit)
    assert spans_in(reader) == both(load, fit)
    again = run("load")
    assert spans_in(reader) == both(again, fit)
    assert spans_in(reader) == both(again, fit)

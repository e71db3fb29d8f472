"""Which points have a label that keeps their process apart."""

from __future__ import annotations

import logging

import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import NoOpMeterProvider, _internal
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    ConsoleMetricExporter,
    InMemoryMetricReader,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import Resource

from carbon_otel import guard
from carbon_otel.otel.instance import label_of
from carbon_otel.otel.providers import Providers

NAMELESS = Resource({"service.name": "churn"})
NAMED = Resource({"service.name": "churn", "service.instance.id": "7"})


def pushing():
    return PeriodicExportingMetricReader(ConsoleMetricExporter(), export_interval_millis=3_600_000)


def label(reader, resource, *, forked=False):
    provider = MeterProvider([reader()], resource=resource, shutdown_on_exit=False)
    try:
        return label_of(provider, forked=forked)
    finally:
        provider.shutdown()


@pytest.fixture(autouse=True)
def new_log():
    guard.forget()


def test_a_provider_that_pushes_without_an_id(caplog):
    with caplog.at_level(logging.WARNING):
        first, second = label(pushing, NAMELESS), label(pushing, NAMELESS)
    assert first.keys() == second.keys() == {"service.instance.id"} and first != second
    (line,) = [record.getMessage() for record in caplog.records]
    assert 'Resource.create({"service.instance.id": str(uuid.uuid4())})' in line
    assert "OTEL_RESOURCE_ATTRIBUTES=service.instance.id=$(uuidgen)" in line


@pytest.mark.parametrize(
    ("reader", "resource"),
    [(pushing, NAMED), (InMemoryMetricReader, NAMELESS), (PrometheusMetricReader, NAMELESS)],
)
def test_a_provider_that_needs_none(reader, resource, caplog):
    with caplog.at_level(logging.WARNING):
        assert label(reader, resource) == {}
    assert not caplog.records


def test_an_id_of_a_variable_may_be_that_of_other_processes(monkeypatch, caplog):
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.instance.id=7")
    with caplog.at_level(logging.WARNING):
        assert label(pushing, NAMED)["service.instance.id"] != "7"
    assert not caplog.records


def test_a_forked_child_has_its_own_without_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        assert label(pushing, NAMED, forked=True)["service.instance.id"] != "7"
    assert not caplog.records


def test_other_providers():
    assert label_of(NoOpMeterProvider(), forked=False) == {}
    assert label_of(_internal._ProxyMeterProvider(), forked=False) is None


@pytest.mark.parametrize("given", ["", "pod-7"])
def test_providers_of_our_own_always_have_an_id_of_their_own(given, monkeypatch):
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", f"service.instance.id={given}" if given else "")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.1")
    ids = set()
    for _ in range(2):
        providers = Providers.choose(None, None)
        resources = [providers.tracer.resource, providers.meter._sdk_config.resource]
        (own,) = {resource.attributes["service.instance.id"] for resource in resources}
        assert own.startswith(given) and own != given
        ids.add(own)
        providers.close(5)(5)
    assert len(ids) == 2

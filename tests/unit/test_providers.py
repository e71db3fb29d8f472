"""The providers that receive the telemetry, and whether there are any."""

from __future__ import annotations

import threading

import pytest
from opentelemetry import metrics, trace
from opentelemetry.metrics import _internal
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider

from carbon_otel.otel.providers import Providers

TRACER, METER = TracerProvider(shutdown_on_exit=False), MeterProvider(shutdown_on_exit=False)


@pytest.fixture
def application(monkeypatch):
    """Sets a global provider, as the application does; none is set until then."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(_internal, "_METER_PROVIDER", None)
    assert type(metrics.get_meter_provider()).__name__ == "_ProxyMeterProvider"
    return {
        "tracer": lambda provider: monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider),
        "meter": lambda provider: monkeypatch.setattr(_internal, "_METER_PROVIDER", provider),
    }


@pytest.mark.parametrize("given", [(TRACER, None), (None, METER), (TRACER, METER)])
def test_a_provider_given_as_argument_receives_telemetry(given, application):
    providers = Providers.choose(*given)
    assert providers.listened and not providers.silent()


@pytest.mark.parametrize(("kind", "provider"), [("tracer", TRACER), ("meter", METER)])
def test_a_provider_that_the_application_sets_later_receives_telemetry_from_then_on(
    kind, provider, application
):
    providers = Providers.choose(None, None)
    assert providers.silent() and not providers.listened
    application[kind](provider)
    assert not providers.silent() and providers.listened


@pytest.mark.parametrize(("kind", "provider"), [("tracer", TRACER), ("meter", METER)])
def test_an_api_that_names_its_providers_otherwise_is_asked(kind, provider, application, monkeypatch):
    providers = Providers.choose(None, None)
    found = {"tracer": trace.get_tracer_provider(), "meter": metrics.get_meter_provider(), kind: provider}
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: found["tracer"])
    monkeypatch.setattr(metrics, "get_meter_provider", lambda: found["meter"])
    monkeypatch.delattr(trace, "_TRACER_PROVIDER")
    assert not providers.silent()


def test_the_api_is_not_asked_again_once_a_provider_is_set(application, monkeypatch):
    providers = Providers.choose(TRACER, METER)

    def unexpected() -> None:
        raise AssertionError("asked again")

    monkeypatch.setattr(trace, "get_tracer_provider", unexpected)
    monkeypatch.setattr(metrics, "get_meter_provider", unexpected)
    assert not providers.silent()


class Provider:
    def __init__(self, flushed: bool) -> None:
        self.flushed = flushed

    def force_flush(self, timeout_ms: int) -> bool:
        return self.flushed


@pytest.mark.parametrize("results", [(True, True), (True, False), (False, True)])
def test_a_flush_succeeds_when_both_do(results):
    providers = Providers(*map(Provider, results))
    assert providers.flush(10)(10) is all(results)
    providers.close(10)


def test_a_flush_succeeds_where_no_thread_can_be_started_any_more(monkeypatch):
    """As at interpreter exit with Python 3.12."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    providers = Providers(Provider(True), Provider(True))
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert providers.flush(10)(10)

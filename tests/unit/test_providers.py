"""The providers that receive the telemetry, and whether there are any."""

from __future__ import annotations

import threading

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider

from carbon_otel.otel.providers import Providers

TRACER, METER = TracerProvider(shutdown_on_exit=False), MeterProvider(shutdown_on_exit=False)


@pytest.fixture
def application(monkeypatch):
    """The application's global providers: the API's proxies until the test sets others."""
    proxies = {"tracer": trace.ProxyTracerProvider(), "meter": metrics.get_meter_provider()}
    assert type(proxies["meter"]).__name__ == "_ProxyMeterProvider"
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: proxies["tracer"])
    monkeypatch.setattr(metrics, "get_meter_provider", lambda: proxies["meter"])
    return proxies


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
    application[kind] = provider
    assert not providers.silent() and providers.listened


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

"""The providers that receive the telemetry, and whether there are any."""

from __future__ import annotations

import threading

import pytest
from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.metrics import _internal
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExportResult
from opentelemetry.sdk.trace import TracerProvider, export

from carbon_otel import clock
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


class Counted(Provider):
    def __init__(self) -> None:
        super().__init__(flushed=True)
        self.flushes = 0
        self.done = threading.Event()

    def force_flush(self, timeout_ms: int = 0) -> bool:
        self.flushes += 1
        self.done.set()
        return True

    def shutdown(self) -> None: ...


def test_metrics_leave_early_only_from_a_provider_of_our_own():
    own, applications = Counted(), Counted()
    for provider, owned in ((own, (own,)), (applications, ())):
        providers = Providers(TRACER, provider, owned)
        assert providers.send_metrics()
        assert providers.flush(10)(10)
        providers.close(10)
    assert (own.flushes, applications.flushes) == (2, 1)


def test_an_early_export_waits_for_the_one_before():
    own, go_on = Counted(), threading.Event()
    own.force_flush = lambda timeout_ms=0: go_on.wait(60)
    providers = Providers(TRACER, own, (own,))
    assert providers.send_metrics()
    assert not providers.send_metrics()
    go_on.set()
    assert providers.flush(60)(60)
    assert providers.send_metrics()
    providers.close(10)


def test_at_the_end_only_the_applications_provider_is_flushed():
    own, applications = Counted(), Counted()
    providers = Providers(own, applications, (own,))
    assert providers.flush_of_application(10, inherited=False)(10)
    providers.close(10)
    assert (own.flushes, applications.flushes) == (0, 1)


def test_a_forked_child_flushes_no_sums_of_its_parent():
    spans, sums = Counted(), Counted()
    sums.get_meter = METER.get_meter
    providers = Providers(spans, sums)
    assert providers.flush_of_application(10, inherited=True)(10)
    assert (spans.flushes, sums.flushes) == (1, 0)
    assert providers.flush_of_application(10, inherited=False)(10)
    assert (spans.flushes, sums.flushes) == (2, 1)
    providers.close(10)


@pytest.mark.parametrize(("given", "delay_s"), [(None, 1.0), ("250", 0.25)])
def test_the_delay_of_spans_is_a_second_unless_the_user_sets_it(given, delay_s, application, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    if given is not None:
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", given)
    delays = []
    original = export.BatchSpanProcessor.__init__

    def note(self, *args, **kwargs) -> None:
        original(self, *args, **kwargs)
        delays.append(kwargs["schedule_delay_millis"] or self._default_schedule_delay_millis())

    monkeypatch.setattr(export.BatchSpanProcessor, "__init__", note)
    Providers.choose(None, METER).close(10)
    assert delays == [delay_s * 1000]


def test_a_collector_that_takes_no_metrics_gets_no_early_export_for_a_minute(application, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    results = [MetricExportResult.FAILURE] + [MetricExportResult.SUCCESS] * 5
    monkeypatch.setattr(OTLPMetricExporter, "export", lambda self, *args, **kwargs: results.pop(0))
    now = [0.0]
    monkeypatch.setattr(clock, "monotonic", lambda: now[0])
    providers = Providers.choose(TRACER, None)
    providers.meter.get_meter("any").create_counter("any").add(1)
    assert providers.send_metrics()
    assert providers.flush(10)(10)  # waits for the early export, and succeeds itself
    assert not providers.send_metrics()
    now[0] = 61
    assert providers.send_metrics()
    providers.close(10)


def test_a_later_call_finds_the_providers_that_the_application_has_set_since(application):
    own = Counted()
    providers = Providers(own, METER, (own,))
    assert providers.latest(None, None) == (own, METER)
    application["tracer"](TRACER)
    assert providers.latest(None, None) == (TRACER, METER)
    providers.use(TRACER, METER)
    assert providers.flush(10)(10)
    assert own.flushes == 1  # spans that are open there end there
    providers.close(10)

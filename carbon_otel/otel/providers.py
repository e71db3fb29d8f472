"""Which OpenTelemetry providers the telemetry goes to.

An explicit argument wins; else the application's; else, if an OTLP endpoint is set, providers of our own, built
from the standard `OTEL_*` variables and never made global; else the API's proxies, which bind to whatever the
application sets up later.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from opentelemetry import metrics, trace
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from carbon_otel.background import Worker
from carbon_otel.guard import contain, warn_once
from carbon_otel.sinks import Pending

# The SDK retries until this many seconds have passed; its default of 10 would hold up a dead collector's exit.
_EXPORT_TIMEOUT_S: Final = 3.0


class Providers:
    """The chosen pair; `owned` are those we built and have to shut down."""

    def __init__(self, tracer: TracerProvider, meter: MeterProvider, owned: tuple[Any, ...] = ()) -> None:
        self.tracer = tracer
        self.meter = meter
        self._owned = owned
        self._workers: dict[int, Worker] = {}
        for provider in owned:
            self._worker(provider)

    @classmethod
    def choose(
        cls,
        tracer: TracerProvider | None,
        meter: MeterProvider | None,
        attributes: Mapping[str, Any] | None = None,
    ) -> Providers:
        """`attributes` are of the resource of providers that we build."""
        resource = functools.partial(_resource, attributes or {})
        owned: list[Any] = []
        if tracer is None:
            tracer = trace.get_tracer_provider()
            if isinstance(tracer, trace.ProxyTracerProvider) and _exports("TRACES"):
                built = contain("building a tracer provider", _build_tracer_provider, None, resource)
                if built is not None:
                    owned.append(built)
                    tracer = built
        if meter is None:
            meter = metrics.get_meter_provider()
            if _is_proxy(meter) and _exports("METRICS"):
                built = contain("building a meter provider", _build_meter_provider, None, resource)
                if built is not None:
                    owned.append(built)
                    meter = built
        return cls(tracer, meter, tuple(owned))

    def silent(self) -> bool:
        """Whether nobody listens: no provider was given, and the application has none yet."""
        return (
            isinstance(self.tracer, trace.ProxyTracerProvider)
            and _is_proxy(self.meter)
            and isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
            and _is_proxy(metrics.get_meter_provider())
        )

    def warn_if_too_late(self) -> None:
        """Say once that the application has set providers of its own after we built ours."""
        # By its meter provider: MLflow sets a tracer provider of its own as it pleases.
        if self._owned and not _is_proxy(metrics.get_meter_provider()):
            warn_once(
                "providers",
                "the application has set its OpenTelemetry providers (logfire.configure(), say) after "
                "carbon_otel.instrument(), whose telemetry goes to OTEL_EXPORTER_OTLP_ENDPOINT instead; call "
                "instrument() after that",
            )

    def annotate(self, processor: Any) -> bool:
        """Let a span processor see the application's spans; False where there is no SDK's provider yet."""
        add = getattr(self.tracer, "add_span_processor", None)
        if add is None:
            return False
        add(processor)
        return True

    def flush(self, timeout_s: float) -> Pending:
        """Begin to flush both at once."""
        results: dict[int, bool] = {}

        def flush(provider: Any) -> None:
            results[id(provider)] = bool(provider.force_flush(int(timeout_s * 1000)))

        # What was a proxy when we began may have been bound to the application's provider since.
        tracer = (
            trace.get_tracer_provider() if isinstance(self.tracer, trace.ProxyTracerProvider) else self.tracer
        )
        meter = metrics.get_meter_provider() if _is_proxy(self.meter) else self.meter
        asked = [p for p in (tracer, meter) if hasattr(p, "force_flush")]
        begun = self._on_workers(asked, flush)
        return lambda left_s: _all_done(begun, left_s) and all(results.get(id(p), False) for p in asked)

    def close(self, timeout_s: float) -> Pending:
        """Begin to shut down both of ours at once."""
        begun = self._on_workers(self._owned, lambda provider: provider.shutdown())
        while self._workers:
            self._workers.popitem()[1].close()
        return lambda left_s: _all_done(begun, left_s)

    def _on_workers(self, providers: Iterable[Any], call: Callable[[Any], object]) -> list[threading.Event]:
        return [self._worker(p).submit(functools.partial(call, p)) for p in providers]

    def _worker(self, provider: Any) -> Worker:
        worker = self._workers.get(id(provider))
        if worker is None:
            worker = self._workers[id(provider)] = Worker("carbon_otel export")
        return worker


def _all_done(begun: Iterable[threading.Event], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    results = [done.wait(max(0.0, deadline - time.monotonic())) for done in begun]
    return all(results)


def _is_proxy(provider: MeterProvider) -> bool:
    # The API keeps its proxy class private; anything else, a NoOp too, is the application's choice.
    return type(provider).__name__ == "_ProxyMeterProvider"


def _exports(signal: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the standard variables ask for an OTLP export of this signal."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if environ.get(f"OTEL_{signal}_EXPORTER", "otlp").strip().lower() not in ("otlp", ""):
        return False
    return any(environ.get(f"OTEL_EXPORTER_OTLP_{part}ENDPOINT") for part in ("", f"{signal}_"))


def _protocol(signal: str, environ: Mapping[str, str] = os.environ) -> str:
    default = environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    return environ.get(f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", default).strip().lower()


def _timeout_s(signal: str, environ: Mapping[str, str] = os.environ) -> float | None:
    """None where the user has set one: then the exporter reads it itself."""
    names = (f"OTEL_EXPORTER_OTLP_{signal}_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT")
    return None if any(environ.get(name) for name in names) else _EXPORT_TIMEOUT_S


def _resource(attributes: Mapping[str, Any]) -> Any:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.version import __version__ as sdk_version

    # Said outright, because MLflow leaves its own telemetry.sdk.name in OTEL_RESOURCE_ATTRIBUTES.
    return Resource.create(
        {
            **attributes,
            "telemetry.sdk.language": "python",
            "telemetry.sdk.name": "opentelemetry",
            "telemetry.sdk.version": sdk_version,
        }
    )


def _build_tracer_provider(resource: Callable[[], Any]) -> Any:
    from opentelemetry.sdk.trace import TracerProvider as SdkTracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    exporter: Any
    if _protocol("TRACES") == "grpc":
        try:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
        except ImportError:
            return _warn_of_missing_grpc()
        exporter = GrpcExporter(timeout=_timeout_s("TRACES"))
    else:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

        exporter = HttpExporter(timeout=_timeout_s("TRACES"))
    provider = SdkTracerProvider(resource=resource(), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _build_meter_provider(resource: Callable[[], Any]) -> Any:
    from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider
    from opentelemetry.sdk.metrics.export import MetricExportResult, PeriodicExportingMetricReader

    exporter: Any
    if _protocol("METRICS") == "grpc":
        try:
            from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import (
                OTLPMetricExporter as GrpcExporter,
            )
        except ImportError:
            return _warn_of_missing_grpc()
        exporter = GrpcExporter(timeout=_timeout_s("METRICS"))
    else:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpExporter

        exporter = HttpExporter(timeout=_timeout_s("METRICS"))
    _export_only_here(exporter, MetricExportResult.SUCCESS)
    reader = PeriodicExportingMetricReader(exporter)
    return SdkMeterProvider(metric_readers=[reader], resource=resource(), shutdown_on_exit=False)


def _warn_of_missing_grpc() -> None:
    warn_once(
        "grpc exporter",
        "OTLP over gRPC is asked for, but its exporter is not installed: run "
        '`pip install "carbon-otel[grpc]"` or set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf',
    )


def _export_only_here(exporter: Any, done: object) -> None:
    """The SDK exports a copy of all sums from a forked child too, as another instance; ours must not."""
    pid, export = os.getpid(), exporter.export

    def export_here(*args: Any, **kwargs: Any) -> Any:
        return export(*args, **kwargs) if os.getpid() == pid else done

    exporter.export = export_here

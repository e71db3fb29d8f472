"""Providers of carbon_otel's own, built from the standard `OTEL_*` variables and never made global."""

from __future__ import annotations

import importlib
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from opentelemetry.metrics import MeterProvider

from carbon_otel import clock
from carbon_otel.guard import clean, contain, log_once
from carbon_otel.otel.exemplars import views
from carbon_otel.otel.instance import given_id, own_id
from carbon_otel.otel.instruments import instruments_of
from carbon_otel.semconv import names as semconv
from carbon_otel.units import MS_PER_S

# The SDK retries for this many seconds; with its default of 10, a dead collector would delay the exit too much.
_EXPORT_TIMEOUT_S: Final = 3.0
# A kill loses the spans of this time. An export takes place only if a span has ended.
_SPAN_DELAY_S: Final = 1.0
# Between two exports of metrics beside the regular ones while a collector takes none.
_PAUSE_S: Final = 60.0


class Outage:
    """The last export of metrics that has failed: each failure is a line of the SDK in the program's log."""

    def __init__(self) -> None:
        self._at_s = -math.inf

    def note(self) -> None:
        self._at_s = clock.monotonic()

    def is_recent(self) -> bool:
        return clock.monotonic() - self._at_s < _PAUSE_S


def exporters(signal: str, environ: Mapping[str, str] = os.environ) -> list[str]:
    """The exporters that the standard variables ask for, of those that we know: `otlp` and `console`."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    variable = f"OTEL_{signal}_EXPORTER"
    names = [name.strip().lower() for name in environ.get(variable, "").split(",") if name.strip()]
    unknown = sorted({*names} - {"otlp", "console", "none"})
    if unknown:
        log_once(
            "%s=%s: without `opentelemetry-instrument`, carbon_otel knows otlp, console and none",
            variable,
            ",".join(unknown),
            about=signal,
        )
    addressed = any(environ.get(f"OTEL_EXPORTER_OTLP_{part}ENDPOINT") for part in ("", f"{signal}_"))
    return [name for name in names or ["otlp"] if name == "console" or (name == "otlp" and addressed)]


def _protocol(signal: str, environ: Mapping[str, str] = os.environ) -> str:
    default = environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    return environ.get(f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", default).strip().lower()


def _timeout_s(signal: str, environ: Mapping[str, str] = os.environ) -> float | None:
    """None if the user has set a timeout: the exporter reads it."""
    names = (f"OTEL_EXPORTER_OTLP_{signal}_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT")
    return None if any(environ.get(name) for name in names) else _EXPORT_TIMEOUT_S


def resource_of_process(attributes: Mapping[str, Any]) -> Any:
    """A resource of the SDK for this process, with an instance id of its own."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.version import __version__ as sdk_version

    # Explicit, because MLflow sets its own telemetry.sdk.name in OTEL_RESOURCE_ATTRIBUTES.
    return Resource.create(
        {
            **attributes,
            semconv.INSTANCE: own_id(given_id()),
            "telemetry.sdk.language": "python",
            "telemetry.sdk.name": "opentelemetry",
            "telemetry.sdk.version": sdk_version,
        }
    )


def build_tracer_provider(resource: Callable[[], Any]) -> Any:
    """A tracer provider that exports as the variables say; None if it has no exporter."""
    from opentelemetry.sdk.trace import TracerProvider as SdkTracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

    made = list(_made("TRACES", "trace_exporter", "OTLPSpanExporter", ConsoleSpanExporter))
    if not made:
        return None
    provider = SdkTracerProvider(resource=resource(), shutdown_on_exit=False)
    delay_ms = None if os.environ.get("OTEL_BSP_SCHEDULE_DELAY") else _SPAN_DELAY_S * MS_PER_S
    for exporter in made:
        provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=delay_ms))
    return provider


def build_meter_provider(resource: Callable[[], Any], outage: Outage) -> Any:
    """The same of metrics; `outage` learns of exports that fail."""
    from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider
    from opentelemetry.sdk.metrics.export import (
        ConsoleMetricExporter,
        MetricExportResult,
        PeriodicExportingMetricReader,
    )

    made = list(_made("METRICS", "metric_exporter", "OTLPMetricExporter", ConsoleMetricExporter))
    if not made:
        return None
    provider = SdkMeterProvider(
        metric_readers=[PeriodicExportingMetricReader(exporter) for exporter in made],
        resource=resource(),
        shutdown_on_exit=False,
        views=views(),
    )
    for exporter in made:
        if not isinstance(exporter, ConsoleMetricExporter):
            _watch_exports(exporter, MetricExportResult.SUCCESS, provider, outage)
    return provider


def _made(signal: str, module: str, otlp: str, console: Callable[[], Any]) -> Iterator[Any]:
    for name in exporters(signal):
        if name == "console":
            yield console()
            continue
        transport = "grpc" if _protocol(signal) == "grpc" else "http"
        try:
            found = importlib.import_module(f"opentelemetry.exporter.otlp.proto.{transport}.{module}")
        except ImportError:
            if transport != "grpc":
                raise
            _warn_of_missing_grpc()
            continue
        _hide_secrets_in_logs()
        yield getattr(found, otlp)(timeout=_timeout_s(signal))


def _hide_secrets_in_logs() -> None:
    """Exporters that we have made log the address of the collector, with a password in it."""
    package = "opentelemetry.exporter.otlp.proto"
    for name in ("http.trace_exporter", "http.metric_exporter", "grpc.exporter"):
        logging.getLogger(f"{package}.{name}").addFilter(clean)


def _watch_exports(exporter: Any, done: object, provider: MeterProvider, outage: Outage) -> None:
    """Note how exports end, and export in this process only: a forked child would export a copy of all sums."""
    pid, export = os.getpid(), exporter.export

    def export_here(*args: Any, **kwargs: Any) -> Any:
        if os.getpid() != pid:
            return done
        result = export(*args, **kwargs)
        if result is not done:
            outage.note()
        contain("noting an export", None, instruments_of(provider).source.after_export, result is done)
        return result

    exporter.export = export_here


def _warn_of_missing_grpc() -> None:
    log_once(
        "OTLP over gRPC is configured, but its exporter is not installed: run "
        '`pip install "carbon-otel[grpc]"` or set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf'
    )

"""carbon_otel as an OpenTelemetry instrumentation.

    opentelemetry-instrument python train.py

measures a program without changing it; `OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=carbon_otel` turns that off. In
code, `CarbonInstrumentor().instrument(zone="FR")` does the same as `carbon_otel.instrument(zone="FR")`, except
that its second call logs a warning and changes nothing. Needs the package opentelemetry-instrumentation.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor

import carbon_otel
from carbon_otel.guard import contain, log_once

_HTTP_PORT: Final = 4318


class CarbonInstrumentor(BaseInstrumentor):  # type: ignore[misc]  # the package has no types
    """Has the arguments and the errors of `carbon_otel.instrument()`."""

    def instrumentation_dependencies(self) -> Collection[str]:
        # This instruments the machine, not a library, so it requires no version of a library.
        return ()

    def _instrument(self, **kwargs: Any) -> None:
        carbon_otel.instrument(**kwargs)
        _warn_of_grpc_to_http(os.environ)

    def _uninstrument(self, **kwargs: Any) -> None:
        carbon_otel.uninstrument()


def _warn_of_grpc_to_http(environ: Mapping[str, str]) -> None:
    """`opentelemetry-instrument` sends by gRPC unless a variable says otherwise; port 4318 does not take that."""
    for signal in ("TRACES", "METRICS"):
        protocol, endpoint = (
            environ.get(f"OTEL_EXPORTER_OTLP_{signal}_{name}")
            or environ.get(f"OTEL_EXPORTER_OTLP_{name}", "")
            for name in ("PROTOCOL", "ENDPOINT")
        )
        if protocol == "grpc" and contain("reading an address", None, _port, endpoint) == _HTTP_PORT:
            log_once(
                "OTLP goes by gRPC to port %d, which usually takes HTTP only: set "
                "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, or use port 4317",
                _HTTP_PORT,
            )


def _port(endpoint: str) -> int | None:
    return urlsplit(endpoint).port

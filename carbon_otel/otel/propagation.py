"""A stage's trace context across the border to another process, by its environment.

The variables are those of the OpenTelemetry specification (Environment variables as context propagation
carriers): `TRACEPARENT`, `TRACESTATE` and `BAGGAGE`. The baggage names the run and the stage and goes to child
processes only: an HTTP client of the application never sends it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from typing import Final

from opentelemetry import baggage
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from carbon_otel.semconv import names as semconv

VARIABLES: Final = ("TRACEPARENT", "TRACESTATE", "BAGGAGE")
_TRACE = TraceContextTextMapPropagator()
_BAGGAGE = W3CBaggagePropagator()


def write(
    environment: MutableMapping[str, str], context: Context, run_id: str | None, stage: str | None
) -> None:
    """Put the span of `context`, and what it belongs to, into a child's environment."""
    carrier: dict[str, str] = {}
    _TRACE.inject(carrier, context)
    if not carrier:
        return
    marked = Context()
    for key, value in ((semconv.RUN_ID, run_id), (semconv.STAGE_NAME, stage)):
        if value:
            marked = baggage.set_baggage(key, value, marked)
    _BAGGAGE.inject(carrier, marked)
    for name in VARIABLES:
        value = carrier.get(name.lower())
        if value is not None:
            environment[name] = value


def read(environment: Mapping[str, str] = os.environ) -> tuple[Context, str | None]:
    """The context that this process was started with, and the run it belongs to; empty where there is none."""
    carrier = {name.lower(): environment[name] for name in VARIABLES if name in environment}
    context = _TRACE.extract(carrier, Context())
    run_id = baggage.get_baggage(semconv.RUN_ID, _BAGGAGE.extract(carrier, Context()))
    return context, run_id if isinstance(run_id, str) else None

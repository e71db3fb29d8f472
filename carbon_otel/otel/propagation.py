"""The trace context of a stage, passed to child processes in environment variables.

The variables are those of the OpenTelemetry specification ("Environment variables as context propagation
carriers"): `TRACEPARENT`, `TRACESTATE` and `BAGGAGE`. The baggage holds the run's id and the stage's name. Only
child processes get it; the application's HTTP clients do not send it.
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
    """Write the span of `context`, its run and its stage to a child's environment.

    Nothing if there is neither a span nor a run. Other baggage of this process's environment stays.
    """
    carrier: dict[str, str] = {}
    _TRACE.inject(carrier, context)
    if not carrier and not run_id:
        return
    marked = _BAGGAGE.extract({"baggage": os.environ.get("BAGGAGE", "")}, Context())
    for key, value in ((semconv.RUN_ID, run_id), (semconv.STAGE_NAME, stage)):
        if value:
            marked = baggage.set_baggage(key, value, marked)
    _BAGGAGE.inject(carrier, marked)
    for name in VARIABLES:
        value = carrier.get(name.lower())
        if value is not None:
            environment[name] = value


def read(environment: Mapping[str, str] = os.environ) -> tuple[Context, str | None]:
    """The context that this process was started with, which may be empty, and the id of its run, if any."""
    carrier = {name.lower(): environment[name] for name in VARIABLES if name in environment}
    context = _TRACE.extract(carrier, Context())
    run_id = baggage.get_baggage(semconv.RUN_ID, _BAGGAGE.extract(carrier, Context()))
    return context, run_id if isinstance(run_id, str) else None


def is_from_stage(environment: Mapping[str, str]) -> bool:
    """Whether a stage of another process has handed this environment on."""
    carrier = {"baggage": environment.get("BAGGAGE", "")}
    return baggage.get_baggage(semconv.STAGE_NAME, _BAGGAGE.extract(carrier, Context())) is not None

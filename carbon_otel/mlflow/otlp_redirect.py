"""An OTLP endpoint takes MLflow's own traces away from MLflow: said once, where both are in one process.

MLflow's tracing sends to `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` or `OTEL_EXPORTER_OTLP_ENDPOINT`, where one is set,
and then no longer to its tracking server, unless it is told to do both (mlflow 3, tracing/provider.py).
"""

from __future__ import annotations

import os
from collections.abc import Mapping

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def warning(environ: Mapping[str, str] = os.environ) -> str | None:
    """What to tell the user; None where MLflow's traces stay with MLflow, or the user has chosen."""
    endpoint = next((name for name in _ENDPOINTS if environ.get(name, "").strip()), None)
    chosen = ("MLFLOW_ENABLE_OTLP_EXPORTER", "MLFLOW_TRACE_ENABLE_OTLP_DUAL_EXPORT")
    if endpoint is None or any(environ.get(name, "").strip() for name in chosen):
        return None
    return (
        f"{endpoint} is set, so MLflow's own traces (mlflow.start_span, autologging of LLMs) go there instead of "
        "to MLflow; set MLFLOW_TRACE_ENABLE_OTLP_DUAL_EXPORT=true for both, or MLFLOW_ENABLE_OTLP_EXPORTER=false "
        "for MLflow alone"
    )

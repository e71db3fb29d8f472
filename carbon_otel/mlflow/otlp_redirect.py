"""Warns that an OTLP endpoint redirects MLflow's own traces away from MLflow.

MLflow's tracing exports to `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` or `OTEL_EXPORTER_OTLP_ENDPOINT`, if one is
set. It then exports to its tracking server only if a further variable asks for both (mlflow 3,
tracing/provider.py).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_CHOICES: Final = ("MLFLOW_ENABLE_OTLP_EXPORTER", "MLFLOW_TRACE_ENABLE_OTLP_DUAL_EXPORT")


def warning(environ: Mapping[str, str] = os.environ) -> str | None:
    """The warning; None if MLflow's traces go to MLflow, or if the user has chosen a destination."""
    endpoint = next((name for name in _ENDPOINTS if environ.get(name, "").strip()), None)
    if endpoint is None or any(environ.get(name, "").strip() for name in _CHOICES):
        return None
    return (
        f"{endpoint} is set, so MLflow's own traces (mlflow.start_span, autologging of LLMs) go there instead of "
        "to MLflow; set MLFLOW_TRACE_ENABLE_OTLP_DUAL_EXPORT=true for both, or MLFLOW_ENABLE_OTLP_EXPORTER=false "
        "for MLflow alone"
    )

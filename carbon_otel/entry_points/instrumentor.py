"""carbon_otel as an OpenTelemetry instrumentation.

    opentelemetry-instrument python train.py

measures a program without changing it; `OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=carbon_otel` turns that off. In
code, `CarbonInstrumentor().instrument(zone="FR")` does the same as `carbon_otel.instrument(zone="FR")`, except
that its second call logs a warning and changes nothing. Needs the package opentelemetry-instrumentation.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor

import carbon_otel


class CarbonInstrumentor(BaseInstrumentor):  # type: ignore[misc]  # the package has no types
    """Has the arguments and the errors of `carbon_otel.instrument()`."""

    def instrumentation_dependencies(self) -> Collection[str]:
        # This instruments the machine, not a library, so it requires no version of a library.
        return ()

    def _instrument(self, **kwargs: Any) -> None:
        carbon_otel.instrument(**kwargs)

    def _uninstrument(self, **kwargs: Any) -> None:
        carbon_otel.uninstrument()

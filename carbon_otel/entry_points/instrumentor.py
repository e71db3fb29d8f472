"""carbon_otel as an OpenTelemetry instrumentation.

    opentelemetry-instrument python train.py

measures a program without a change to it; `OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=carbon_otel` turns that off. In
code, `CarbonInstrumentor().instrument(zone="FR")` is `carbon_otel.instrument(zone="FR")` with the manners of an
instrumentor: a second call warns instead of beginning anew. Needs the package opentelemetry-instrumentation,
which is there wherever instrumentors are loaded.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor

import carbon_otel


class CarbonInstrumentor(BaseInstrumentor):  # type: ignore[misc]  # the package has no types
    """Takes the arguments of `carbon_otel.instrument()`, and raises what it raises."""

    def instrumentation_dependencies(self) -> Collection[str]:
        # What is measured is the machine, which has no version.
        return ()

    def _instrument(self, **kwargs: Any) -> None:
        carbon_otel.instrument(**kwargs)

    def _uninstrument(self, **kwargs: Any) -> None:
        carbon_otel.uninstrument()

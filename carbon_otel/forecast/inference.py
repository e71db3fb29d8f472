"""The forecast of serving a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from carbon_otel.forecast.records import Forecast, InferenceRequest


def forecast_inference(request: InferenceRequest) -> Forecast:
    """Forecast the energy per token, per request and per month of serving a model.

    Raises:
        ValueError: for unknown hardware, place or precision; the message says what to write instead.
    """
    raise NotImplementedError(request)

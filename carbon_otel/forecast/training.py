"""The forecast of a training run."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from carbon_otel.forecast.records import Forecast, TrainingRequest


def forecast_training(request: TrainingRequest) -> Forecast:
    """Forecast a training run; what is missing of model, tokens, gpus and days is solved for.

    Raises:
        ValueError: for unknown hardware, place or precision, or with too little given; the message says what to
            write instead.
    """
    raise NotImplementedError(request)

"""The same forecast across GPUs, places, precisions and model sizes, sorted by emissions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields, replace

from carbon_otel.forecast.inference import forecast_inference
from carbon_otel.forecast.quantity import text_of
from carbon_otel.forecast.records import Forecast, InferenceRequest, Model, Place, TrainingRequest
from carbon_otel.forecast.training import forecast_training


def forecast_of(request: TrainingRequest | InferenceRequest) -> Forecast:
    """The forecast of a request of either kind. Raises ValueError as the functions of that kind do."""
    if isinstance(request, TrainingRequest):
        return forecast_training(request)
    return forecast_inference(request)


def compare(
    request: TrainingRequest | InferenceRequest, field: str, values: Iterable[object]
) -> Sequence[tuple[str, Forecast]]:
    """Forecast a request once for each value of one of its fields; least emissions first.

    Args:
        request: the forecast that the others differ from.
        field: `hardware`, `place`, `precision`, `model`, `gpus`, ...
        values: the values of that field.

    Raises:
        ValueError: for a field that the request lacks, or a value that has no forecast.
    """
    names = [each.name for each in fields(request)]
    if field not in names:
        raise ValueError(f"a forecast cannot be compared by {field!r}; write one of {', '.join(names)}")
    found = [(_label(value), forecast_of(_with(request, field, value))) for value in values]
    return sorted(found, key=lambda row: row[1].emissions_kg.p50)


def _with(
    request: TrainingRequest | InferenceRequest, field: str, value: object
) -> TrainingRequest | InferenceRequest:
    changed: dict[str, object] = {field: value}
    return replace(request, **changed)  # type: ignore[arg-type]


def _label(value: object) -> str:
    if isinstance(value, Model):
        return value.name
    if isinstance(value, Place):
        given = (value.region, value.zone, value.intensity_g_per_kwh)
        known = next((each for each in given if each is not None), "unknown place")
        return f"{known:g} g/kWh" if isinstance(known, float | int) else str(known)
    return text_of(value) if isinstance(value, int | float) else str(value)

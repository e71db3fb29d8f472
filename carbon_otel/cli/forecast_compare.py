"""The option `--compare` of `carbon-otel forecast`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from carbon_otel.forecast.architecture import model_of
from carbon_otel.forecast.comparison import compare
from carbon_otel.forecast.quantity import number
from carbon_otel.forecast.records import Forecast, InferenceRequest, TrainingRequest

# Options of `--compare`, and the fields of a request that they replace.
_FIELDS: Final = {
    "gpu": "hardware",
    "zone": "place",
    "region": "place",
    "precision": "precision",
    "params": "model",
    "gpus": "gpus",
    "tokens": "tokens",
    "days": "days",
}


def comparison(
    request: TrainingRequest | InferenceRequest, option: str
) -> tuple[str, list[tuple[str, Forecast]]]:
    """The field, and each of its values with its forecast. Raises ValueError for what cannot be compared."""
    field, equals, text = option.partition("=")
    values = [value.strip() for value in text.split(",") if value.strip()]
    if not equals or field not in _FIELDS or len(values) < 2:
        raise ValueError(
            f"--compare {option}: write a field and its values, such as gpu=A100,H100; fields: "
            f"{', '.join(_FIELDS)}"
        )
    if not hasattr(request, _FIELDS[field]):
        raise ValueError(f"--compare {field}: inference does not depend on it")
    if field == "params" and isinstance(request, InferenceRequest) and request.training is not None:
        raise ValueError(
            "--compare params: each model has a training of its own; leave out --training-tokens or --training-mwh"
        )
    return field, list(compare(request, _FIELDS[field], [_value(request, field, each) for each in values]))


def _value(request: TrainingRequest | InferenceRequest, field: str, text: str) -> Any:
    if field == "zone":
        return replace(request.place, zone=text, region=None, intensity_g_per_kwh=None)
    if field == "region":
        # The PUE of a cloud region is looked up, unless it was given.
        return replace(request.place, region=text, zone=None, intensity_g_per_kwh=None)
    if field == "params":
        params, model = number(text, "--compare params"), request.model
        return model if model is not None and model.params == params else model_of(params)
    if field in ("gpus", "tokens", "days"):
        return number(text, f"--compare {field}")
    return text

"""The same forecast across GPUs, places, precisions and model sizes, sorted by emissions."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from carbon_otel.forecast.records import Forecast, InferenceRequest, TrainingRequest


def compare(
    request: TrainingRequest | InferenceRequest, field: str, values: Iterable[object]
) -> Sequence[tuple[str, Forecast]]:
    """Forecast a request once for each value of one of its fields; least emissions first.

    Args:
        request: the forecast that the others differ from.
        field: `hardware`, `place`, `precision`, `model`, `gpus`, ...
        values: the values of that field.
    """
    raise NotImplementedError(request, field, values)

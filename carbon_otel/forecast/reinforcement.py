"""Reinforcement learning after training: the model generates tokens, and then trains on them.

The tokens are forecast as inference of long answers, on accelerators that are always busy. In the one pipeline
that was measured, generating took 87 % of all (Morrison et al. 2026, arXiv 2605.01158), machines that wait for
the longest answers included: that is the upper end.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from carbon_otel.forecast.inference import forecast_inference
from carbon_otel.forecast.records import InferenceRequest, Interval, Model, TrainingRequest

_ANSWER_TOKENS: Final = 8000.0
_MEASURED_SHARE: Final = 0.87
_J_PER_KWH: Final = 3.6e6


def reinforcement_kwh(
    request: TrainingRequest, model: Model, rl_tokens: float, training_kwh_per_token: Interval
) -> Interval:
    """Kilowatt-hours without PUE of generating tokens and of training on them.

    Args:
        request: the training, for its accelerator.
        model: the model.
        rl_tokens: tokens that it generates.
        training_kwh_per_token: of the final run.
    """
    serving = InferenceRequest(request.hardware, model, output_tokens=_ANSWER_TOKENS, scope="node")
    generated = forecast_inference(serving).j_per_output_token
    assert generated is not None
    trained = training_kwh_per_token.times(rl_tokens)
    whole = generated.times(rl_tokens / _J_PER_KWH) + trained
    return replace(whole, p90=max(whole.p90, trained.p90 / (1 - _MEASURED_SHARE)))

"""All fitted constants, with what they are worth on what they have not seen."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from carbon_otel.forecast.fit import inference, training

_DIGITS = 6


def compute() -> dict[str, Any]:
    """The content of `data/fitted.json`."""
    content: dict[str, Any] = _rounded({"training": _training(), "inference": _inference()})
    return content


def _training() -> dict[str, Any]:
    published = training.runs()
    judged = training.judge(published)
    return {
        **asdict(training.fit_prior(published)),
        "runs": len(published),
        "families": len({run.family for run in published}),
        "median_error": statistics.median(abs(each.error) for each in judged),
        "coverage": sum(each.covered for each in judged) / len(judged),
    }


def _inference() -> dict[str, Any]:
    measured = inference.measurements()
    constants = inference.fit_constants(measured)
    models = inference.left_out_errors(measured, lambda each: each.model, constants)
    gpus = inference.left_out_errors(measured, lambda each: each.gpu, constants)
    return {
        "constants": constants,
        "kv_values_per_root": inference.values_per_root(measured),
        "measured_gpus": sorted({each.gpu for each in measured}),
        "measurements": len(measured),
        "models": len({each.model for each in measured}),
        # The factors about the median within which a measurement lies: on text, for a model, and for an
        # accelerator, that were left out.
        "unseen_model": _factors(models, measured),
        "unseen_gpu": _factors(gpus, measured),
    }


def _factors(errors: Sequence[float], measured: Sequence[inference.Measurement]) -> dict[str, float]:
    chosen = [(error, each) for error, each in zip(errors, measured, strict=True) if each.text]
    low, high = inference.interval([error for error, _ in chosen], [each for _, each in chosen])
    median = statistics.median(abs(math.exp(-error) - 1) for error, _ in chosen)
    return {"low": math.exp(min(low, 0.0)), "high": math.exp(max(high, 0.0)), "median_error": median}


def _rounded(content: Any) -> Any:
    """With six digits, so that the file is the same wherever it is made."""
    if isinstance(content, float):
        return float(f"{content:.{_DIGITS}g}")
    if isinstance(content, dict):
        return {name: _rounded(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_rounded(value) for value in content]
    return content

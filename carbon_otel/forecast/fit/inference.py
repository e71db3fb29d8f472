"""Fits the constants of `decoding` on measured language models (ML.ENERGY v2 and v3).

The least absolute errors of ln (joules per token), by iteratively reweighted Gauss-Newton steps; models with many
measurements count by the square root of their number.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from carbon_otel.forecast.decoding import TERMS, WEIGHT_BYTES, Serving
from carbon_otel.forecast.fit.linear import quantile, solve
from carbon_otel.forecast.hardware import accelerator
from carbon_otel.forecast.tables import rows

TASKS: Final = ("chat", "code", "reasoning", "infill", "image", "video")
# Where the fit begins, and what holds it where the data say little: the physics with round numbers.
# `software_2024` is how many times as much as software of 2026 that of 2024 takes; the rest are tokens of a
# prompt.
START: Final[Mapping[str, float]] = {
    "step_s": 2.5e-3,
    "doubling_s": 1e-3,
    "request_s": 5e-5,
    "weights": 0.75,
    "arithmetic": 2.0,
    "context": 1.0,
    "software_2024": 1.6,
    "chat": 150,
    "code": 150,
    "reasoning": 300,
    "infill": 800,
    "image": 1500,
    "video": 5000,
}
_NAMES: Final = tuple(START)
_SMALLEST_ERROR: Final = 0.1  # below this, an error counts by its square
_HOLD: Final = 1.0
_DAMPING: Final = 1e-3
_LARGEST_STEP: Final = 0.5
_TOLERANCE: Final = 1e-4
_STEPS: Final = 60
_BF16: Final[Mapping[str, str]] = {"bfloat16": "bf16", "float16": "fp16"}


@dataclass(frozen=True, slots=True)
class Measurement:
    """Joules per generated token of one model in one setting, the prompt's share included.

    Attributes:
        model: its name.
        gpu: of the catalogue.
        task: one of `TASKS`.
        old: whether the serving software is that of 2024.
        output_tokens: mean length of an answer.
        joules: per generated token, of the accelerators alone.
        serving: the setting.
    """

    model: str
    gpu: str
    task: str
    old: bool
    output_tokens: float
    joules: float
    serving: Serving

    @property
    def text(self) -> bool:
        """Whether the prompt is text alone."""
        return self.task not in ("image", "video")


def measurements() -> list[Measurement]:
    """All rows of the table."""
    return [_measurement(row) for row in rows("inference_runs")]


def _measurement(row: Mapping[str, str]) -> Measurement:
    device = accelerator(row["gpu"])
    assert device.tdp_w is not None and device.bytes_per_s is not None
    return Measurement(
        model=row["model"],
        gpu=device.name,
        task=row["task"],
        old=row["software"] == "2024",
        output_tokens=float(row["output_tokens"]),
        joules=float(row["j_per_output_token"]),
        serving=Serving(
            params=float(row["params_b"]) * 1e9,
            active_params=float(row["active_params_b"]) * 1e9,
            kv_values=float(row["kv_values_per_token"]),
            weight_bytes=WEIGHT_BYTES[_BF16.get(row["precision"], row["precision"])],
            gpus=float(row["gpus"]),
            concurrency=float(row["concurrency"]),
            tdp_w=device.tdp_w,
            bytes_per_s=device.bytes_per_s,
            peak=device.peak("bf16")[1],
        ),
    )


def predicted(measured: Measurement, constants: Mapping[str, float]) -> float:
    """Ln of the joules per generated token, with the prompt's share."""
    return _with_gradient(measured, constants)[0]


def _with_gradient(measured: Measurement, constants: Mapping[str, float]) -> tuple[float, dict[int, float]]:
    """Ln joules, and its derivatives by ln of each constant: the term's share of the sum."""
    serving, prompt = measured.serving, constants[measured.task]
    rate = serving.j_per_step_second()
    before, per_context = serving.step_times(measured.output_tokens / 2), serving.step_times(1.0)[-1]
    terms = {i: rate * constants[name] * before[i] for i, name in enumerate(TERMS) if before[i]}
    context = rate * constants["context"] * per_context * prompt
    reading = prompt * serving.j_per_input_token() / measured.output_tokens
    total = sum(terms.values()) + context + reading
    gradient = {i: value / total for i, value in terms.items()}
    last = len(TERMS) - 1
    gradient[last] = gradient.get(last, 0.0) + context / total
    gradient[_NAMES.index(measured.task)] = (context + reading) / total
    value = math.log(total)
    if measured.old:
        gradient[_NAMES.index("software_2024")] = 1.0
        value += math.log(constants["software_2024"])
    return value, gradient


def fit_constants(measured: Sequence[Measurement], start: Mapping[str, float] = START) -> dict[str, float]:
    """The constants that fit the measurements best."""
    sizes = Counter(each.model for each in measured)
    base = [sizes[each.model] ** -0.5 for each in measured]
    scale = len(base) / sum(base)
    logs = {name: math.log(start[name]) for name in _NAMES}
    for _ in range(_STEPS):
        step = _step(measured, [scale * weight for weight in base], logs)
        for name, change in zip(_NAMES, step, strict=True):
            logs[name] += max(-_LARGEST_STEP, min(_LARGEST_STEP, change))
        if max(map(abs, step)) < _TOLERANCE:
            break
    return {name: math.exp(value) for name, value in logs.items()}


def _step(
    measured: Sequence[Measurement], weights: Sequence[float], logs: Mapping[str, float]
) -> list[float]:
    size = len(_NAMES)
    constants = {name: math.exp(value) for name, value in logs.items()}
    matrix = [[0.0] * size for _ in range(size)]
    right = [_HOLD * (math.log(START[name]) - logs[name]) for name in _NAMES]
    for each, weight in zip(measured, weights, strict=True):
        value, gradient = _with_gradient(each, constants)
        error = math.log(each.joules) - value
        weight /= max(abs(error), _SMALLEST_ERROR)
        for i, slope in gradient.items():
            right[i] += weight * slope * error
            for j, other in gradient.items():
                matrix[i][j] += weight * slope * other
    for i in range(size):
        matrix[i][i] = (matrix[i][i] + _HOLD) * (1 + _DAMPING)
    return solve(matrix, right)


def left_out_errors(
    measured: Sequence[Measurement], group: Callable[[Measurement], Hashable], start: Mapping[str, float]
) -> list[float]:
    """For each measurement, ln (measured / forecast) by a fit without its group.

    Args:
        measured: the measurements.
        group: what is left out together: the model, or the accelerator.
        start: where the fits begin; they end where they would from anywhere.
    """
    fits = {
        left_out: fit_constants([each for each in measured if group(each) != left_out], start)
        for left_out in dict.fromkeys(map(group, measured))
    }
    return [math.log(each.joules) - predicted(each, fits[group(each)]) for each in measured]


def interval(errors: Sequence[float], measured: Sequence[Measurement]) -> tuple[float, float]:
    """The 10th and 90th percentile of errors, each model counted by the square root of its measurements."""
    sizes = Counter(each.model for each in measured)
    weights = [sizes[each.model] ** -0.5 for each in measured]
    return quantile(errors, weights, 0.1), quantile(errors, weights, 0.9)


def values_per_root(measured: Sequence[Measurement]) -> float:
    """Key and value numbers per token over the root of the active parameters: the median over the models.

    It stands for models whose shape is unknown.
    """
    ratios = {each.model: each.serving.kv_values / math.sqrt(each.serving.active_params) for each in measured}
    return quantile(list(ratios.values()), [1.0] * len(ratios), 0.5)

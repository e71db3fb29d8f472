"""Which of model, tokens, accelerators and days are known, and the rest computed from them.

FLOPs = 6 x active parameters x tokens; hours of one accelerator = FLOPs / (peak x MFU); days = hours / (24 x
number).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, get_args

from carbon_otel.forecast.compute import training_flops
from carbon_otel.forecast.quantity import text_of
from carbon_otel.forecast.records import Interval, Model, TrainingRequest, Tuning

TOKENS_PER_PARAMETER: Final = 20.0
CHINCHILLA: Final = "20 tokens per parameter: Hoffmann et al. 2022, arXiv 2203.15556"
_HOURS_PER_DAY: Final = 24.0
_S_PER_H: Final = 3600.0
# The prior's published runs have sequences of 1k to 8k tokens, whose attention their MFU contains.
_SEQUENCE_OF_PRIOR: Final = 4096
_SMALLEST_MODEL, _LARGEST_MODEL = 1e3, 1e16
_BISECTIONS: Final = 100


@dataclass(frozen=True, slots=True)
class Plan:
    """A training run with all that can be known of it.

    Attributes:
        model: given, or the median of what was solved for.
        params: parameters.
        tokens: over all epochs.
        flops: of the training.
        gpu_hours: hours of one accelerator.
        gpus: number of accelerators; None if neither it nor the duration is known.
        days: duration; None likewise.
        mfu: utilisation.
        assumed_tokens: whether the tokens are those of the rule of 20 per parameter.
        notes: what was solved for.
    """

    model: Model
    params: Interval
    tokens: Interval
    flops: Interval
    gpu_hours: Interval
    gpus: Interval | None
    days: Interval | None
    mfu: Interval
    assumed_tokens: bool
    notes: tuple[str, ...]


def plan(request: TrainingRequest, peak: float, mfu_of: Callable[[Model], Interval]) -> Plan:
    """Solve a request.

    Args:
        request: what is known.
        peak: of the accelerator, in FLOP/s.
        mfu_of: the utilisation that a model reaches.

    Raises:
        ValueError: with too little given, a number that is not above 0, or an unknown tuning.
    """
    for name in ("tokens", "epochs", "gpus", "days", "seq_len", "rl_tokens"):
        value = getattr(request, name)
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"{name} is {value}; write a number above 0")
    if request.tuning not in get_args(Tuning):
        raise ValueError(f"unknown tuning {request.tuning!r}; write {' or '.join(get_args(Tuning))}")
    reserved = None
    if request.gpus is not None and request.days is not None:
        reserved = request.gpus * request.days * _HOURS_PER_DAY
    if request.model is None:
        return _solve_model(request, peak, mfu_of, reserved)
    mfu = mfu_of(request.model)
    if request.tokens is None and reserved is not None:
        return _solve_tokens(request, request.model, peak, mfu, reserved)
    return _solve_time(request, request.model, peak, mfu, reserved)


def _flops(request: TrainingRequest, model: Model, tokens: float) -> float:
    length = None if request.seq_len is None else max(0, request.seq_len - _SEQUENCE_OF_PRIOR)
    recompute = request.recompute and request.mfu is not None
    return training_flops(model, tokens, seq_len=length, tuning=request.tuning, recompute=recompute)


def _solve_time(
    request: TrainingRequest, model: Model, peak: float, mfu: Interval, reserved: float | None
) -> Plan:
    tokens = (request.tokens or TOKENS_PER_PARAMETER * model.active_params) * request.epochs
    flops = _flops(request, model, tokens)
    at_peak = flops / peak / _S_PER_H
    hours = mfu.inverse().times(at_peak)
    notes: list[str] = []
    gpus = None if request.gpus is None else Interval.exact(request.gpus)
    days = None if request.days is None else Interval.exact(request.days)
    if reserved is not None:
        notes.append(_whether_it_fits(at_peak / reserved, mfu))
        hours = Interval.exact(reserved)
    elif gpus is not None:
        days = hours.times(1 / (gpus.p50 * _HOURS_PER_DAY))
    elif days is not None:
        gpus = hours.times(1 / (days.p50 * _HOURS_PER_DAY))
        low, middle, high = (round(number) for number in (gpus.p10, gpus.p50, gpus.p90))
        notes.append(f"in {days.p50:g} days: {middle:,} accelerators ({low:,} to {high:,})")
    else:
        notes.append("give gpus or days to know the duration; energy and emissions hardly depend on it")
    return Plan(
        model=model,
        params=Interval.exact(model.params),
        tokens=Interval.exact(tokens),
        flops=Interval.exact(flops),
        gpu_hours=hours,
        gpus=gpus,
        days=days,
        mfu=mfu,
        assumed_tokens=request.tokens is None,
        notes=tuple(notes),
    )


def _whether_it_fits(needed: float, mfu: Interval) -> str:
    verdict = "within the range"
    if needed > mfu.p90:
        verdict = "above the range: the run will probably take longer"
    elif needed < mfu.p10:
        verdict = "below the range: the run will probably be done earlier"
    return (
        f"this many accelerators and days need a utilisation of {needed:.2g}, {verdict} of {mfu.p10:.2g} to "
        f"{mfu.p90:.2g}; the hours are taken as given"
    )


def _solve_tokens(
    request: TrainingRequest, model: Model, peak: float, mfu: Interval, reserved: float
) -> Plan:
    per_token = _flops(request, model, 1.0)
    tokens = mfu.times(reserved * _S_PER_H * peak / per_token)
    assert request.gpus is not None and request.days is not None
    return Plan(
        model=model,
        params=Interval.exact(model.params),
        tokens=tokens,
        flops=tokens.times(per_token),
        gpu_hours=Interval.exact(reserved),
        gpus=Interval.exact(request.gpus),
        days=Interval.exact(request.days),
        mfu=mfu,
        assumed_tokens=False,
        notes=(f"that trains on {_range(tokens)} tokens",),
    )


def _solve_model(
    request: TrainingRequest, peak: float, mfu_of: Callable[[Model], Interval], reserved: float | None
) -> Plan:
    if reserved is None:
        raise ValueError(
            "give the model's parameters, or gpus and days to learn how large a model they allow"
        )
    available = reserved * _S_PER_H * peak

    def sized(params: float) -> Model:
        return Model(text_of(params), params, params, "solved for")

    def tokens_of(params: float) -> float:
        return (request.tokens or TOKENS_PER_PARAMETER * params) * request.epochs

    def largest(percentile: str) -> float:
        """The size whose training takes all hours, if the utilisation is that of the percentile."""
        low, high = _SMALLEST_MODEL, _LARGEST_MODEL
        for _ in range(_BISECTIONS):
            middle = (low * high) ** 0.5
            needed = _flops(request, sized(middle), tokens_of(middle))
            reached: float = getattr(mfu_of(sized(middle)), percentile)
            low, high = (low, middle) if needed / reached > available else (middle, high)
        return low

    params = Interval(largest("p10"), largest("p50"), largest("p90"))
    tokens = Interval(tokens_of(params.p10), tokens_of(params.p50), tokens_of(params.p90))
    assert request.gpus is not None and request.days is not None
    return Plan(
        model=sized(params.p50),
        params=params,
        tokens=tokens,
        flops=Interval(
            *(_flops(request, sized(n), tokens_of(n)) for n in (params.p10, params.p50, params.p90))
        ),
        gpu_hours=Interval.exact(reserved),
        gpus=Interval.exact(request.gpus),
        days=Interval.exact(request.days),
        mfu=mfu_of(sized(params.p50)),
        assumed_tokens=request.tokens is None,
        notes=(f"that trains a model of {_range(params)} parameters",),
    )


def _range(interval: Interval) -> str:
    return f"{text_of(interval.p50)} ({text_of(interval.p10)} to {text_of(interval.p90)})"

"""The phases of a model's life beside its final training run, each a multiple of it or a load of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from carbon_otel.forecast.quantity import text_of
from carbon_otel.forecast.records import Assumption, Interval, Model, Phase, TrainingRequest
from carbon_otel.forecast.reinforcement import reinforcement_kwh

_IDLE: Final = Interval(0.0, 0.0, 0.59)
_IDLE_SOURCE: Final = (
    "the prior's published hours contain restarts; high: BLOOM's idle share, Luccioni et al. 2022, arXiv "
    "2211.02001"
)
_DEVELOPMENT: Final = Interval(0.5, 1.5, 4.6)
_DEVELOPMENT_SOURCE: Final = (
    "low: Morrison et al. 2025 (final run x 1.5); high: Morrison et al. 2026, arXiv 2605.01158 (x 5.6); "
    "middle: between"
)
_POST_SOURCE: Final = (
    "none unless given; reinforcement learning of a 32B took 17 times its instruction tuning (2605.01158)"
)
# Watts of a terabyte on solid-state disks, three copies (Cloud Carbon Footprint: 1.2 Wh per TB and hour).
_STORAGE_W_PER_TB: Final = 3 * 1.2
_STORAGE_BAND: Final = Interval(1 / 3, 1.0, 3.0)
_BYTES_PER_TOKEN: Final = 4.0
_BYTES_PER_PARAMETER: Final = 14.0  # weights and the state of Adam, mixed precision
_CHECKPOINTS: Final = 5
_BYTES_PER_TB: Final = 1e12
_HOURS_PER_DAY: Final = 24.0


def phases_of(
    request: TrainingRequest,
    it_energy_kwh: Interval,
    *,
    model: Model,
    tokens: float,
    days: Interval | None,
    at_site: Callable[[Interval], tuple[Interval, Interval]],
) -> tuple[list[Phase], list[Assumption]]:
    """The phases of a training run.

    Args:
        request: what the user gave.
        it_energy_kwh: of the final run, without PUE.
        model: the model.
        tokens: training tokens.
        days: duration; None if it is unknown, and then nothing is said about storage.
        at_site: from kilowatt-hours without PUE to those with PUE and to kilograms.
    """
    made: list[Phase] = []
    assumptions: list[Assumption] = []

    def add(name: str, energy: Interval, basis: str) -> None:
        made.append(Phase(name, *at_site(energy), basis))

    add("training", it_energy_kwh, "the final run")
    for name, given, assumed, source in (
        ("restarts and idle", request.idle, _IDLE, _IDLE_SOURCE),
        ("development", request.development, _DEVELOPMENT, _DEVELOPMENT_SOURCE),
        ("post-training", request.post_training, Interval.exact(0.0), _POST_SOURCE),
    ):
        multiple = _multiple(name, given, assumed, source)
        assumptions.append(multiple)
        times = Interval(multiple.low, multiple.value, multiple.high)
        add(name, times * it_energy_kwh, f"{multiple.value:g} x the final run")
    if request.rl_tokens is not None:
        per_token = it_energy_kwh.times(1 / tokens)
        energy = reinforcement_kwh(request, model, request.rl_tokens, per_token)
        add(
            "reinforcement learning", energy, f"{text_of(request.rl_tokens)} tokens, generated and trained on"
        )
    if days is not None:
        stored = _stored(request.storage_tb, model.params, tokens)
        assumptions.append(stored)
        terabytes = Interval(stored.low, stored.value, stored.high)
        watt_days = terabytes.times(_STORAGE_W_PER_TB) * days
        add("storage", watt_days.times(_HOURS_PER_DAY / 1e3), f"{stored.value:.3g} TB for the duration")
    return made, assumptions


def _multiple(name: str, given: float | None, assumed: Interval, source: str) -> Assumption:
    label = f"{name}, as a multiple of the final run"
    if given is None:
        return Assumption(label, assumed.p50, assumed.p10, assumed.p90, "", source, False)
    if not 0 <= given < float("inf"):
        raise ValueError(f"{label} is {given}; write a number of at least 0")
    return Assumption(label, given, given, given, "", "given")


def _stored(given: float | None, params: float, tokens: float) -> Assumption:
    if given is not None:
        if not 0 <= given < float("inf"):
            raise ValueError(f"storage_tb is {given}; write a number of at least 0")
        return Assumption("storage", given, given, given, "TB", "given")
    value = (_CHECKPOINTS * _BYTES_PER_PARAMETER * params + _BYTES_PER_TOKEN * tokens) / _BYTES_PER_TB
    band = _STORAGE_BAND.times(value)
    source = "four bytes a token and five checkpoints with optimizer state, on three disks each; an estimate"
    return Assumption("storage", band.p50, band.p10, band.p90, "TB", source, False)

"""The forecast of a training run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Final

from carbon_otel.forecast.efficiency import features, prior, sparsity
from carbon_otel.forecast.embodied import embodied_kg
from carbon_otel.forecast.hardware import Accelerator, accelerator
from carbon_otel.forecast.phases import phases_of
from carbon_otel.forecast.place import GIVEN, Site, site_of
from carbon_otel.forecast.power import training_power
from carbon_otel.forecast.quantity import text_of
from carbon_otel.forecast.records import (
    Assumption,
    Forecast,
    Interval,
    Model,
    PastRun,
    TrainingRequest,
    influences,
)
from carbon_otel.forecast.solving import CHINCHILLA, Plan, plan
from carbon_otel.forecast.tables import fitted

# In published runs, fp8 is taken up by a part of the matrices: how much faster than 16 bits the whole step gets.
_FP8_SPEEDUP: Final = Interval(1.0, 1.25, 1.6)
_FP8_SOURCE: Final = (
    "an estimate; DeepSeek-V3 (arXiv 2412.19437) and vendors report 1.2 to 1.6 for whole runs"
)
# Nodes of one site in one regime differ by 3 to 9 % (MLPerf Training v4.0 power logs).
_SAME_SITE: Final = Interval(0.93, 1.0, 1.07)


def forecast_training(request: TrainingRequest) -> Forecast:
    """Forecast a training run; what is missing of model, tokens, gpus and days is solved for.

    Raises:
        ValueError: for unknown hardware, place or precision, or with too little given; the message says what to
            write instead.
    """
    device, site = accelerator(request.hardware), site_of(request.place)
    precision, peak, speedup = _peak(device, request.precision)
    past = [run for run in request.past if accelerator(run.hardware).name == device.name]

    def mfu_of(model: Model) -> Interval:
        if request.mfu is not None:
            return _given_mfu(request.mfu)
        row = _features(device, model.params, model.active_params)
        reached = prior().mfu(row, [_residual(run, model) for run in past])
        return _at_most_one(reached * speedup)

    planned = plan(request, peak, mfu_of)
    watts = request.watts if request.watts is not None else _watts_of(past)
    power, power_assumptions = training_power(
        device, None if planned.gpus is None else planned.gpus.p50, watts
    )
    if request.watts is None and watts is not None:
        power = power * _SAME_SITE
        power_assumptions = [_of_past_runs(power, past)]
    it_energy = (planned.gpu_hours * power).times(1e-3)
    energy, emissions = _at_site(it_energy, site)
    embodied, embodied_assumptions = embodied_kg(device.name, planned.gpu_hours, request.lifetime_years)
    phases, phase_assumptions = phases_of(
        request,
        it_energy,
        model=planned.model,
        tokens=planned.tokens.p50,
        days=planned.days,
        at_site=lambda energy: _at_site(energy, site),
    )
    factors = {each.name: _interval(each) for each in (*power_assumptions, *site.assumptions[:2])}
    if planned.gpu_hours.width > 1:
        factors["model FLOPs utilisation"] = planned.gpu_hours
    return Forecast(
        kind="training",
        title=_title(planned, device, precision),
        scope="service",
        energy_kwh=energy,
        it_energy_kwh=it_energy,
        emissions_kg=emissions,
        assumptions=(
            *_of_plan(request, planned, device, precision, peak, past),
            *power_assumptions,
            *site.assumptions,
            *embodied_assumptions,
            *phase_assumptions,
        ),
        flops=planned.flops,
        gpu_hours=planned.gpu_hours,
        days=planned.days,
        gpus=planned.gpus,
        tokens=planned.tokens,
        params=planned.params,
        embodied_kg=embodied,
        water_l=it_energy * site.water_l_per_it_kwh,
        phases=tuple(phases),
        influences=influences(factors),
        notes=(
            *planned.notes,
            *_attention(request),
            *_learned(past, device),
            *site.notes,
            *_unknown(embodied, device),
        ),
    )


def _peak(device: Accelerator, precision: str | None) -> tuple[str, float, Interval]:
    """The precision, the peak that the prior refers to, and how much faster than that peak says a step is."""
    precision, peak = device.peak(precision)
    if precision == "int8":
        raise ValueError("training has no precision int8; write bf16, fp16, fp8, tf32 or fp32")
    if precision == "fp8":
        return precision, device.peak(None)[1], _FP8_SPEEDUP
    return precision, peak, Interval.exact(1.0)


def _features(device: Accelerator, params: float, active_params: float) -> tuple[float, ...]:
    return features(device.name, sparse=sparsity(active_params / params), active_params=active_params)


def _residual(run: PastRun, model: Model) -> float:
    if not 0 < run.mfu <= 1:
        raise ValueError(
            f"the run {run.name!r} has a utilisation of {run.mfu}; it must be above 0 and at most 1"
        )
    if run.active_params is None:
        params, active = model.params, model.active_params
    else:
        params, active = run.params or run.active_params, run.active_params
    return math.log(run.mfu) - prior().log_mean(_features(accelerator(run.hardware), params, active))


def _given_mfu(mfu: float) -> Interval:
    if not 0 < mfu <= 1:
        raise ValueError(f"mfu is {mfu}; write a share of the peak above 0 and at most 1, such as 0.4")
    return Interval.exact(mfu)


def _at_most_one(mfu: Interval) -> Interval:
    return Interval(min(mfu.p10, 1.0), min(mfu.p50, 1.0), min(mfu.p90, 1.0))


def _watts_of(past: Sequence[PastRun]) -> float | None:
    measured = [run.watts for run in past if run.watts is not None]
    return statistics.mean(measured) if measured else None


def _at_site(it_energy: Interval, site: Site) -> tuple[Interval, Interval]:
    """Kilowatt-hours with PUE, and kilograms of CO2 equivalent."""
    energy = it_energy * site.pue
    return energy, (energy * site.g_per_kwh).times(1e-3)


def _title(planned: Plan, device: Accelerator, precision: str) -> str:
    number = "" if planned.gpus is None else f"{round(planned.gpus.p50):,} x "
    model, tokens = planned.model, text_of(planned.tokens.p50)
    return f"training {model.name} on {tokens} tokens, {number}{device.name}, {precision}"


def _of_plan(
    request: TrainingRequest,
    planned: Plan,
    device: Accelerator,
    precision: str,
    peak: float,
    past: Sequence[PastRun],
) -> list[Assumption]:
    model = planned.model
    found = [
        _assumed("parameters", planned.params, "", model.source),
        Assumption("active parameters", *(model.active_params,) * 3, "", model.source),
        _assumed("training tokens, all epochs", planned.tokens, "", _source_of_tokens(request, planned)),
        Assumption(
            f"peak of {device.name}, {precision}",
            *(peak / 1e12,) * 3,
            "TFLOP/s",
            device.source,
            device.verified(f"peak_{precision}"),
        ),
    ]
    if precision == "fp8":
        peak_note = f"{_FP8_SOURCE}; the peak above is that of 16 bits"
        found.append(_assumed("speed-up of fp8", _FP8_SPEEDUP, "", peak_note, verified=False))
    if planned.gpus is not None:
        origin = GIVEN if request.gpus is not None else "solved for"
        found.append(_assumed("accelerators", planned.gpus, "", origin))
    source = GIVEN if request.mfu is not None else _source_of_prior(past)
    found.append(_assumed("model FLOPs utilisation", planned.mfu, "", source))
    return found


def _source_of_tokens(request: TrainingRequest, planned: Plan) -> str:
    if planned.assumed_tokens:
        return CHINCHILLA
    return GIVEN if request.tokens is not None else "solved for"


def _source_of_prior(past: Sequence[PastRun]) -> str:
    constants = fitted()["training"]
    own = f", moved by {len(past)} of your runs" if past else ""
    return (
        f"fitted on {constants['runs']} published runs of {constants['families']} families{own}; of a "
        "family that was "
        f"left out, the median error of the hours is {constants['median_error']:.0%}"
    )


def _attention(request: TrainingRequest) -> tuple[str, ...]:
    model = request.model
    if request.seq_len is None or (model is not None and model.layers is not None):
        return ()
    return (
        "the FLOPs of attention are left out, since a number of parameters has no layers; give a config.json",
    )


def _learned(past: Sequence[PastRun], device: Accelerator) -> tuple[str, ...]:
    return (f"based on {len(past)} of your runs on {device.name}",) if past else ()


def _unknown(embodied: Interval | None, device: Accelerator) -> tuple[str, ...]:
    return () if embodied is not None else (f"the embodied carbon of {device.name} is unknown",)


def _of_past_runs(power: Interval, past: Sequence[PastRun]) -> Assumption:
    number = sum(run.watts is not None for run in past)
    return _assumed("power per accelerator, with host", power, "W", f"measured in {number} of your runs")


def _assumed(name: str, interval: Interval, unit: str, source: str, *, verified: bool = True) -> Assumption:
    return Assumption(name, interval.p50, interval.p10, interval.p90, unit, source, verified)


def _interval(assumption: Assumption) -> Interval:
    return Interval(assumption.low, assumption.value, assumption.high)

"""The forecast of serving a model."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final, get_args

from carbon_otel.forecast.compute import prefill_flops
from carbon_otel.forecast.decoding import WEIGHT_BYTES, Serving
from carbon_otel.forecast.embodied import embodied_kg
from carbon_otel.forecast.hardware import Accelerator, accelerator
from carbon_otel.forecast.place import Site, site_of
from carbon_otel.forecast.power import scope_factor
from carbon_otel.forecast.quantity import text_of
from carbon_otel.forecast.records import (
    Assumption,
    Forecast,
    InferenceRequest,
    Interval,
    Phase,
    Scope,
    influences,
)
from carbon_otel.forecast.tables import fitted

_READING: Final = Assumption(
    "energy of reading a prompt",
    1.0,
    0.6,
    1.7,
    "",
    "half of the peak at rated power, an estimate: no open set of measurements has prompts of known length",
    verified=False,
)
# Room for activations and the cache beside the weights, as EcoLogits assumes.
_MEMORY_FACTOR: Final = 1.2
_DRAWN: Final = Assumption(
    "share of the rated power, decoding",
    *(0.7,) * 3,
    "",
    "median of ML.ENERGY v3: H100 497 of 700 W, B200 674 of 1000 W; for the hours",
)
_GIVEN: Final = "given, or the default"
_J_PER_KWH: Final = 3.6e6
_S_PER_H: Final = 3600.0


def forecast_inference(request: InferenceRequest) -> Forecast:
    """Forecast the energy per token, per request and per month of serving a model.

    Raises:
        ValueError: for unknown hardware, place or precision; the message says what to write instead.
    """
    _check(request)
    device = accelerator(request.hardware)
    # Without the site's overhead, neither energy nor water have it.
    place = request.place if request.scope == "service" else replace(request.place, pue=1.0)
    site = site_of(place)
    serving, notes = _serving(request, device)
    decode = _decoding(device)
    host, host_assumptions = scope_factor(request.scope)
    pue = site.pue
    number = 1.0 if request.requests_per_month is None else request.requests_per_month

    # Of the accelerators alone, then of the scope.
    output, input_ = _output_j(request, serving, decode), _input_j(request, serving)
    answers, prompts = (
        output.times(request.output_tokens * number),
        input_.times(request.input_tokens * number),
    )
    it_answers, it_prompts = ((joules * host).times(1 / _J_PER_KWH) for joules in (answers, prompts))
    it_energy = it_answers + it_prompts
    energy = it_energy * pue
    assert device.tdp_w is not None
    gpu_hours = (answers + prompts).times(1 / (device.tdp_w * _DRAWN.value * _S_PER_H))
    embodied, embodied_assumptions = embodied_kg(device.name, gpu_hours, request.lifetime_years)
    if request.scope != "service" and request.place.pue is not None:
        notes.append(f"the scope {request.scope} leaves the PUE out")
    months, month_notes = _months_to_training(request, energy)
    of_site = site.assumptions if request.scope == "service" else site.assumptions[1:]
    factors = {each.name: _interval(each) for each in (*host_assumptions, *of_site) if each.unit != "L/kWh"}
    factors[decode.name] = _within(answers, prompts)
    factors[_READING.name] = _within(prompts, answers)
    return Forecast(
        kind="inference",
        title=_title(request, device, serving),
        scope=request.scope,
        energy_kwh=energy,
        it_energy_kwh=it_energy,
        emissions_kg=_kg(energy, site),
        assumptions=(
            *_given(request, serving, device),
            decode,
            _READING,
            *host_assumptions,
            *of_site,
            _DRAWN,
            *embodied_assumptions,
        ),
        gpu_hours=gpu_hours,
        gpus=Interval.exact(serving.gpus),
        params=Interval.exact(request.model.params),
        embodied_kg=embodied,
        water_l=it_energy * site.water_l_per_it_kwh,
        j_per_output_token=output * host * pue,
        j_per_input_token=input_ * host * pue,
        months_to_training=months,
        phases=(
            Phase("inference", energy, _kg(energy, site), _basis(request)),
            Phase(
                "answers", it_answers * pue, _kg(it_answers * pue, site), "the part of the generated tokens"
            ),
            Phase("prompts", it_prompts * pue, _kg(it_prompts * pue, site), "the part of the prompts"),
        ),
        influences=influences(factors),
        notes=(*notes, *month_notes, *site.notes),
    )


def _check(request: InferenceRequest) -> None:
    for name in ("gpus", "concurrency", "input_tokens", "output_tokens", "requests_per_month", "training"):
        value = getattr(request, name)
        if isinstance(value, Forecast):
            if value.kind != "training":
                raise ValueError(f"training is a forecast of {value.kind}; give that of the model's training")
            continue
        least_is_zero = name == "input_tokens"
        if value is not None and not (0 < value < math.inf or (least_is_zero and value == 0)):
            least = "of at least 0" if least_is_zero else "above 0"
            raise ValueError(f"{name} is {value}; write a number {least}")
    if request.scope not in get_args(Scope):
        raise ValueError(f"unknown scope {request.scope!r}; write gpu, node or service")
    if request.precision not in WEIGHT_BYTES:
        known = ", ".join(WEIGHT_BYTES)
        raise ValueError(f"unknown precision {request.precision!r} of weights; write one of {known}")


def _serving(request: InferenceRequest, device: Accelerator) -> tuple[Serving, list[str]]:
    if device.tdp_w is None or device.bytes_per_s is None or device.memory_bytes is None:
        raise ValueError(
            f"rated power, memory or bandwidth of {device.name} are unknown; choose another accelerator"
        )
    model, weight = request.model, WEIGHT_BYTES[request.precision]
    needed = model.params * weight
    gpus, notes = request.gpus, []
    if gpus is None:
        copies = max(1.0, _MEMORY_FACTOR * needed / device.memory_bytes)
        gpus = 2 ** math.ceil(math.log2(copies))
        notes.append(f"the weights take {needed / 1e9:.3g} GB: {gpus} x {device.name}")
    elif needed > gpus * device.memory_bytes:
        raise ValueError(
            f"the weights take {needed / 1e9:.3g} GB in {request.precision}, more than the "
            f"{gpus * device.memory_bytes / 1e9:.3g} GB of {gpus} x {device.name}; give more gpus"
        )
    values = model.kv_values
    if values is None:
        values = fitted()["inference"]["kv_values_per_root"] * math.sqrt(model.active_params)
    serving = Serving(
        params=model.params,
        active_params=model.active_params,
        kv_values=values,
        weight_bytes=weight,
        gpus=gpus,
        concurrency=request.concurrency,
        tdp_w=device.tdp_w,
        bytes_per_s=device.bytes_per_s,
        peak=device.peak(None)[1],
    )
    return serving, notes


def _decoding(device: Accelerator) -> Assumption:
    constants = fitted()["inference"]
    group = "unseen_model" if device.name in constants["measured_gpus"] else "unseen_gpu"
    band = constants[group]
    left_out = "a model" if group == "unseen_model" else "an accelerator"
    source = (
        f"analytic form fitted on {constants['measurements']} measurements of {constants['models']} "
        "models (ML.ENERGY "
        f"v2, v3); median error of {left_out} that was left out: {band['median_error']:.0%}"
    )
    return Assumption("energy of decoding, over the fit's", 1.0, band["low"], band["high"], "", source)


def _output_j(request: InferenceRequest, serving: Serving, decode: Assumption) -> Interval:
    """Joules of the accelerators per generated token."""
    context = request.input_tokens + request.output_tokens / 2
    value = serving.j_per_output_token(fitted()["inference"]["constants"], context)
    return _interval(decode).times(value)


def _input_j(request: InferenceRequest, serving: Serving) -> Interval:
    """Joules of the accelerators per token of the prompt."""
    tokens = max(request.input_tokens, 1.0)
    attention = prefill_flops(request.model, tokens) / prefill_flops(
        replace(request.model, layers=None), tokens
    )
    return _interval(_READING).times(serving.j_per_input_token() * attention)


def _within(part: Interval, rest: Interval) -> Interval:
    """How far a sum moves about its median with one of its parts."""
    whole = part.p50 + rest.p50
    return Interval((part.p10 + rest.p50) / whole, 1.0, (part.p90 + rest.p50) / whole)


def _interval(assumption: Assumption) -> Interval:
    return Interval(assumption.low, assumption.value, assumption.high)


def _kg(energy: Interval, site: Site) -> Interval:
    return (energy * site.g_per_kwh).times(1e-3)


def _months_to_training(
    request: InferenceRequest, energy: Interval
) -> tuple[Interval | None, tuple[str, ...]]:
    training = request.training
    if training is None:
        return None, ()
    if request.scope != "service":
        raise ValueError(
            f"a training's energy has the host and the PUE, that of the scope {request.scope} has not; write "
            "scope service"
        )
    if request.requests_per_month is None:
        return None, ("give requests per month to learn when inference passes the training",)
    kwh = training.energy_kwh if isinstance(training, Forecast) else Interval.exact(training)
    months = kwh * energy.inverse()
    note = (
        f"inference passes the training's energy after {text_of(months.p50)} months ({text_of(months.p10)} to "
        f"{text_of(months.p90)})"
    )
    return months, (note,)


def _basis(request: InferenceRequest) -> str:
    number = request.requests_per_month
    return "one request" if number is None else f"{text_of(number)} requests a month"


def _title(request: InferenceRequest, device: Accelerator, serving: Serving) -> str:
    return (
        f"serving {request.model.name} on {serving.gpus:g} x {device.name}, {request.precision}, "
        f"{request.concurrency:g} requests at once, {_basis(request)}"
    )


def _given(request: InferenceRequest, serving: Serving, device: Accelerator) -> list[Assumption]:
    model = request.model
    known = model.kv_values is not None
    rule = "the median of the fitted models, by the root of the active parameters"
    rows = (
        ("parameters", model.params, "", model.source, True),
        ("active parameters", model.active_params, "", model.source, True),
        ("accelerators", serving.gpus, "", "given" if request.gpus is not None else "by memory", True),
        ("requests at once", request.concurrency, "", _GIVEN, True),
        ("tokens of a prompt", request.input_tokens, "", _GIVEN, True),
        ("tokens of an answer", request.output_tokens, "", _GIVEN, True),
        ("bytes of a weight", serving.weight_bytes, "B", request.precision, True),
        ("values kept for a token", serving.kv_values, "", model.source if known else rule, known),
        ("rated power", serving.tdp_w, "W", device.source, device.verified("tdp_w")),
        (
            "memory bandwidth",
            serving.bytes_per_s / 1e9,
            "GB/s",
            device.source,
            device.verified("memory_gb_per_s"),
        ),
        ("peak, 16 bits", serving.peak / 1e12, "TFLOP/s", device.source, device.verified("peak_bf16")),
    )
    return [Assumption(name, value, value, value, unit, source, ok) for name, value, unit, source, ok in rows]

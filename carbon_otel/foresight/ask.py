"""`carbon_otel.forecast(...)`: what is to be forecast, on which hardware, with which of the user's runs."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from carbon_otel import clock, config, here
from carbon_otel.carbon.intensity import WORLD
from carbon_otel.footprint import Footprint
from carbon_otel.forecast import estimator as estimators
from carbon_otel.forecast import history as past
from carbon_otel.forecast.architecture import model_of
from carbon_otel.forecast.estimator import Power
from carbon_otel.forecast.hardware import accelerator
from carbon_otel.forecast.inference import forecast_inference
from carbon_otel.forecast.place import site_of
from carbon_otel.forecast.quantity import number
from carbon_otel.forecast.records import (
    Forecast,
    InferenceRequest,
    Interval,
    Place,
    TrainingRequest,
)
from carbon_otel.forecast.training import forecast_training
from carbon_otel.foresight.here import Accelerators, measuring
from carbon_otel.foresight.other_work import OtherWork
from carbon_otel.foresight.settings import checked
from carbon_otel.foresight.watch import remember as hold
from carbon_otel.guard import contain, log_once
from carbon_otel.mlflow import compat
from carbon_otel.records import Foresight
from carbon_otel.sensors.cpu_model import thread_power
from carbon_otel.stages.api import Stage
from carbon_otel.stages.automatic import helping
from carbon_otel.units import J_PER_KWH, KILO, S_PER_DAY

# The stage of the small fits: their energy is neither the training's nor the run's own.
STAGE: Final = "forecasting"
# A store that does not answer in this time teaches nothing.
_HISTORY_S: Final = 3.0
# A power counts as measured if hardware sensors have measured this share of it.
_MEASURED: Final = 0.5
# How far the power of the training may be from that of the small fits, at p10 and p90: a longer fit runs warmer,
# and the error of a mean falls with the root of the time. Our choice.
_WARMER: Final = 0.07
_SHORT: Final = 0.1  # in one second


def ask(
    source: Any,
    features: Any,
    target: Any,
    *,
    hardware: str,
    place_given: Mapping[str, Any],
    inference: bool,
    history: bool,
    remember: bool,
    budget_s: float | None,
    wanted: Mapping[str, Any],
) -> Forecast:
    """See `carbon_otel.forecast`; the fields of the place and of the request are as they were given."""
    if not isinstance(hardware, str):
        raise ValueError(f"hardware is {hardware!r}; write its name, such as 'H100', or 'auto'")
    place = Place(**checked(Place, place_given))
    if features is not None:
        if wanted or inference:
            names = ", ".join([*wanted, *(["inference"] if inference else [])])
            raise ValueError(f"{names}: an estimator is forecast from its small fits; leave these out")
        if hardware != "auto":
            raise ValueError("hardware: an estimator is forecast for this machine; leave it out")
        seconds = estimators.BUDGET_S if budget_s is None else number(budget_s, "budget_s")
        raw, subject = _of_estimator(source, features, target, place, seconds)
        planned: Accelerators | None = None
    elif hasattr(source, "fit") and hasattr(source, "get_params"):
        raise ValueError(
            "an estimator is forecast with its data: write carbon_otel.forecast(estimator, X, y)"
        )
    else:
        raw, subject, planned = _of_model(source, hardware, place, inference, wanted)
    if inference:
        return raw
    made = raw
    # What runs on this machine used says nothing about another one.
    if history and (planned is None or planned.are_here()):
        made = _taught(raw, subject)
    if remember and not contain(
        "remembering a forecast", True, hold, _foresight(raw, made, subject), planned
    ):
        assert planned is not None
        note = f"held against no run: this machine has no {planned.text}"
        made = replace(made, notes=(*made.notes, note))
    return made


def _of_model(
    source: Any, hardware: str, place: Place, inference: bool, wanted: Mapping[str, Any]
) -> tuple[Forecast, str, Accelerators | None]:
    """The forecast, what it is compared with, and the accelerators that it is for."""
    kind = InferenceRequest if inference else TrainingRequest
    fields = checked(kind, {name: value for name, value in wanted.items() if name != "active"})
    active = wanted.get("active")
    model = None
    if source is not None:
        model = model_of(source, active=None if active is None else number(active, "active"))
    name, gpus = _hardware(hardware)
    if hardware == "auto":
        place = _here(place)
    if inference:
        if model is None:
            raise ValueError("no model to serve; write carbon_otel.forecast(model, inference=True)")
        served = InferenceRequest(hardware=name, model=model, place=place, **fields)
        return forecast_inference(served), "inference", None
    if hardware == "auto":
        fields.setdefault("gpus", gpus)
    made = forecast_training(TrainingRequest(hardware=name, model=model, place=place, **fields))
    planned = Accelerators(accelerator(name).name, None if made.gpus is None else made.gpus.p50)
    return made, "training" if planned.are_here() else f"training on {planned.name}", planned


def _hardware(name: str) -> tuple[str, float]:
    """The accelerator in the catalogue, and how many of it this host has."""
    if name != "auto":
        return name, 0.0
    active = measuring()
    if active is None:
        raise ValueError(
            "hardware='auto' needs a measurement that sees a GPU: call carbon_otel.instrument() first, or write "
            "hardware='H100'"
        )
    if not active.gpus:
        raise ValueError(
            "hardware='auto': no GPU is measured here; write the one to train on: hardware='H100'"
        )
    return accelerator(active.gpus[0]).name, float(len(active.gpus))


def _of_estimator(
    source: Any, features: Any, target: Any, place: Place, budget_s: float
) -> tuple[Forecast, str]:
    stage = Stage(STAGE, type(source).__name__[:64])
    others = OtherWork()
    with stage, others, _unseen(), compat.without_autologging():
        timing = estimators.time_of(source, features, target, _timed, budget_s=budget_s)
    made = estimators.forecast_of(timing, _power(stage.footprint), site_of(_here(place)))
    return others.widened(made), timing.name


@contextlib.contextmanager
def _unseen() -> Iterator[None]:
    """The small fits open no stages of their own."""
    token = helping.set(True)
    try:
        yield
    finally:
        helping.reset(token)


def _timed(call: Callable[[], object]) -> float:
    begun_s = clock.monotonic()
    call()
    return clock.monotonic() - begun_s


def _here(place: Place) -> Place:
    """The place, with the grid and the site of the measurement where nothing else is given."""
    active = measuring()
    if active is not None:
        factor = active.factor
    else:
        factor = here.factor(config.resolve({}))
    zone, pue = factor.intensity.zone, factor.pue
    if place.zone is None and place.region is None and place.intensity_g_per_kwh is None and zone != WORLD:
        place = replace(place, zone=zone)
    return replace(place, pue=pue) if place.pue is None and place.region is None else place


def _power(footprint: Footprint) -> Power:
    if footprint.energy_j > 0 and footprint.duration_s > 0:
        watts = footprint.energy_j / footprint.duration_s
        # The whole fit is compared by the same meter, so its band is no part of this.
        doubt = math.exp(math.hypot(_WARMER, _SHORT / math.sqrt(footprint.duration_s)))
        source = f"this machine in {footprint.duration_s:.2g} s of small fits, {footprint.method}"
        return Power(
            Interval(watts / doubt, watts, watts * doubt), source, footprint.measured_fraction >= _MEASURED
        )
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    power = thread_power("unknown")
    watts = power.full_w * threads
    return Power(
        Interval(power.band.low * watts, watts, power.band.high * watts),
        f"assumed, {threads} busy threads: {power.source}; carbon_otel.instrument() measures it",
        False,
    )


def _taught(raw: Forecast, subject: str) -> Forecast:
    """Corrected by the user's runs in MLflow, if the program uses it and its store answers in time."""
    active = measuring()
    if active is None or "mlflow.tracking.fluent" not in sys.modules:
        return raw
    found: list[past.History] = []
    faults: list[Exception] = []
    uri, experiment = contain("asking MLflow for its experiment", ("", ""), compat.experiment_here)
    if not experiment:
        return raw

    def look() -> None:
        try:
            with compat.our_call(uri):
                found.append(past.read(compat.client_at(uri), [experiment], subject, active.hardware))
        except Exception as fault:  # noqa: BLE001 - every kind of store raises its own
            faults.append(fault)

    thread = threading.Thread(target=look, name="carbon_otel forecast history", daemon=True)
    thread.start()
    thread.join(_HISTORY_S)
    if not found:
        reason = repr(faults[0]) if faults else f"MLflow did not answer in {_HISTORY_S:g} s"
        log_once("your runs could not be read, the forecast is made without them: %s", reason)
        return raw
    return past.taught(raw, found[0])


def _foresight(raw: Forecast, made: Forecast, subject: str) -> Foresight:
    joules, grams = made.it_energy_kwh.times(J_PER_KWH), made.emissions_kg.times(KILO)
    seconds = None if made.days is None else made.days.times(S_PER_DAY)
    return Foresight(
        in_run=False,
        expected_j=(joules.p10, joules.p50, joules.p90),
        raw_j=raw.it_energy_kwh.p50 * J_PER_KWH,
        expected_g=(grams.p10, grams.p50, grams.p90),
        expected_s=None if seconds is None else (seconds.p10, seconds.p50, seconds.p90),
        title=made.title,
        subject=subject,
    )

"""The forecast of fitting an estimator, from small fits that are timed and its scaling law.

Clones of the estimator are fitted, never the user's. The cheapest axis comes first:

========================  ======================================================================================
trees, rounds             linear, after a fixed part; a few of them are fitted, on as many rows as the time allows
rows                      n log n x levels for forests, n for boosting and linear models; the small fits correct it
depth                     levels of a tree: the depth, or what the rows allow
========================  ======================================================================================

Any object with `fit`, `get_params` and `set_params` can be forecast: scikit-learn, and the interfaces that
XGBoost, LightGBM and CatBoost make for it. No time is forecast for what stops earlier than it is told to.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from carbon_otel.forecast.place import Site
from carbon_otel.forecast.records import Assumption, Forecast, Interval, influences
from carbon_otel.forecast.small_fits import Fit, Probing, Timer, counted_by, grown, last_step, rows_of
from carbon_otel.units import J_PER_KWH, KILO, S_PER_DAY

Family = Literal["forest", "boosting", "linear", "other"]

# Seconds for all small fits together, if the user gives no other.
BUDGET_S: Final = 2.0
_Z90: Final = 1.2816
# Relative standard deviations of the forecast: of two fits of the same size, and for each factor e by which the
# rows, or the trees, of the fit exceed those of the small fits. Our choice, after trials with scikit-learn,
# XGBoost, LightGBM and CatBoost on a quiet machine: forests came out within 5 %, boosting within 25 %.
_FIT_SD: Final[Mapping[Family, float]] = {"forest": 0.08, "boosting": 0.15, "linear": 0.15, "other": 0.15}
_ROWS_SD: Final[Mapping[Family, float]] = {"forest": 0.10, "boosting": 0.15, "linear": 0.40, "other": 0.40}
_UNITS_SD: Final = 0.02


@dataclass(frozen=True, slots=True)
class Power:
    """Watts of the machine while the estimator is fitted: of a meter in this process, or assumed."""

    watts: Interval
    source: str
    measured: bool


@dataclass(frozen=True, slots=True)
class Timing:
    """What the small fits say about the whole one."""

    family: Family
    name: str
    rows: int
    units: float
    seconds: Interval
    fits: tuple[Fit, ...]
    fit_s: float


def time_of(
    estimator: Any, features: Any, target: Any, timer: Timer, *, budget_s: float = BUDGET_S
) -> Timing:
    """The time that `estimator.fit(features, target)` will take, from small fits within about `budget_s` seconds.

    Raises TypeError for an object that cannot be cloned and fitted, and whatever its `fit` raises.
    """
    if isinstance(estimator, type) or not all(
        callable(getattr(estimator, name, None)) for name in ("fit", "get_params", "set_params")
    ):
        raise TypeError(
            f"{type(estimator).__name__} is no estimator: it needs fit, get_params and set_params, as those of "
            "scikit-learn have"
        )
    rows = rows_of(features)
    if rows < 2:
        raise ValueError(f"X has {rows} rows; an estimator needs at least 2")
    if target is not None and rows_of(target) != rows:
        raise ValueError(f"X has {rows} rows, y has {rows_of(target)}; they must have the same")
    if not budget_s > 0:
        raise ValueError(f"budget_s is {budget_s}; write seconds above 0")
    family = family_of(estimator)
    prefix, last = last_step(estimator)
    counted, whole = counted_by(last) if family in ("forest", "boosting") else ("", 1.0)
    probing = Probing(estimator, prefix, counted, features, target, timer, budget_s, budget_s, rows)
    few = _fewest_units(last, whole, family)
    fits = probing.grow(few, lambda n: law(family, n, _depth(last)))
    largest = fits[-1].rows
    if counted and whole > few:
        fits.append(probing.more_units(largest, few, whole, fits[-1].seconds))
    expected = _extrapolated(family, fits, rows, whole, _depth(last))
    fits[-1] = probing.settle(fits[-1], expected.p50)
    seconds = _extrapolated(family, fits, rows, whole, _depth(last))
    return Timing(family, type(last).__name__, rows, whole, seconds, tuple(fits), budget_s - probing.left_s)


def family_of(estimator: Any) -> Family:
    """The scaling law that an estimator follows, by its class."""
    _, last = last_step(estimator)
    for base in type(last).__mro__:
        name, package = base.__name__, base.__module__.partition(".")[0]
        if package in ("xgboost", "lightgbm", "catboost") or "GradientBoosting" in name or "AdaBoost" in name:
            return "boosting"
        if "Forest" in name or "ExtraTrees" in name or "Bagging" in name:
            return "forest"
        if ".linear_model" in base.__module__ or name in ("LinearSVC", "LinearSVR", "SGDClassifier"):
            return "linear"
    return "other"


def law(family: Family, rows: float, depth: float | None) -> float:
    """Relative cost of one tree, round or pass over that many rows.

    A tree sorts its rows once per level (n log n), and has as many levels as its depth or its rows allow; without
    a limit it splits until its leaves are pure, about twice log2 n levels for noisy labels. Histograms of
    boosting, and passes of linear models, read each row once.
    """
    if family == "forest":
        levels = 2 * math.log2(max(2.0, rows))
        return rows * math.log2(max(2.0, rows)) * (levels if depth is None else min(depth, levels))
    return rows


def forecast_of(timing: Timing, power: Power, site: Site) -> Forecast:
    """Energy and carbon of a fit that takes that time on a machine of that power at that site."""
    kwh = (timing.seconds * power.watts).times(1 / J_PER_KWH)
    at_meter = kwh * site.pue
    small = timing.fits[-1]
    unit = {"forest": "trees", "boosting": "rounds"}.get(timing.family, "") if timing.units > 1 else ""
    size = f"{timing.rows:,} rows" + (f", {timing.units:,.0f} {unit}" if unit else "")
    seconds, watts = timing.seconds, power.watts
    fitted = f"{len(timing.fits)} small fits in {timing.fit_s:.2g} s, up to {small.rows:,} rows"
    if unit:
        fitted += f" and {max(fit.units for fit in timing.fits):,.0f} {unit}"
    factors = {
        "seconds of the fit": seconds,
        "power": watts,
        "PUE": site.pue,
        "carbon intensity": site.g_per_kwh,
    }
    return Forecast(
        kind="estimator",
        title=f"{timing.name}, {size}",
        scope="node",
        energy_kwh=at_meter,
        it_energy_kwh=kwh,
        emissions_kg=(at_meter * site.g_per_kwh).times(1 / KILO),
        water_l=kwh * site.water_l_per_it_kwh,
        assumptions=(
            Assumption(
                "seconds of the fit",
                seconds.p50,
                seconds.p10,
                seconds.p90,
                "s",
                f"{fitted}; law of {timing.family}",
            ),
            Assumption("power", watts.p50, watts.p10, watts.p90, "W", power.source, power.measured),
            *site.assumptions,
        ),
        days=seconds.times(1 / S_PER_DAY),
        influences=influences(factors),
        notes=(
            *site.notes,
            *(("An early stop would make it shorter.",) if timing.family == "boosting" else ()),
        ),
    )


def _extrapolated(family: Family, fits: list[Fit], rows: int, units: float, depth: float | None) -> Interval:
    """The time of all rows and units, with percentiles that widen with the distance to the small fits."""
    few = fits[0].units
    growing, more = [fit for fit in fits if fit.units == few], fits[-1]
    largest = growing[-1]
    if more.units > few:
        each = (more.seconds - largest.seconds) / (more.units - few)
        if more.seconds < 1.02 * largest.seconds:  # the small fit was disturbed
            each = 0.5 * more.seconds / more.units
        fixed = max(0.0, largest.seconds - each * few)
    else:
        each, fixed = largest.seconds / few, 0.0

    def law_of(n: float) -> float:
        return law(family, n, depth)

    growth = grown(growing, law_of(rows), law_of) / largest.seconds if rows > largest.rows else 1.0
    seconds = (fixed + each * units) * growth
    far = math.log(max(1.0, units / more.units))
    distance = math.hypot(_ROWS_SD[family] * math.log(rows / largest.rows), _UNITS_SD * far)
    spread = math.exp(_Z90 * math.hypot(_FIT_SD[family], distance))
    return Interval(seconds / spread, seconds, seconds * spread)


def _fewest_units(estimator: Any, whole: float, family: Family) -> float:
    """Two trees for each of the threads that fit trees at the same time; ten rounds."""
    if family == "boosting":
        return min(whole, 10.0)
    if family != "forest":
        return 1.0
    jobs = estimator.get_params().get("n_jobs") or 1
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = processors + 1 + jobs if jobs < 0 else jobs
    return min(whole, 2.0 * max(1, threads))


def _depth(estimator: Any) -> float | None:
    depth = estimator.get_params().get("max_depth")
    return float(depth) if isinstance(depth, int) and depth > 0 else None

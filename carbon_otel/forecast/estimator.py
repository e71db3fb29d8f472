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

import copy
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from carbon_otel.forecast.records import Assumption, Forecast, Interval
from carbon_otel.units import J_PER_KWH, KILO, S_PER_DAY

Family = Literal["forest", "boosting", "linear", "other"]

# Seconds for all small fits together, if the user gives no other.
BUDGET_S: Final = 2.0
_FEWEST_ROWS: Final = 200
# Each small fit has this many times the rows of the one before.
_GROWTH: Final = 4
_Z90: Final = 1.2816
# Relative standard deviations of the forecast: of two fits of the same size, and for each factor e by which the
# rows, or the trees, of the fit exceed those of the small fits. Our choice; `tests/forecast` checks it on real
# fits.
_FIT_SD: Final[Mapping[Family, float]] = {"forest": 0.08, "boosting": 0.15, "linear": 0.15, "other": 0.15}
_ROWS_SD: Final[Mapping[Family, float]] = {"forest": 0.10, "boosting": 0.15, "linear": 0.40, "other": 0.40}
_UNITS_SD: Final = 0.02
# The second fit of some rows has this many times the trees of the first; its time is kept in reserve.
_MORE: Final = 3.0
# It may take this share of the budget in any case.
_CHEAP: Final = 0.1
# Without trees to leave out, a fit of all rows would be the training itself.
_MOST_ROWS: Final = 0.25
# The parameter that counts trees or rounds, and its default where `get_params` does not have one.
_UNITS: Final = (("n_estimators", 100), ("iterations", 1000), ("max_iter", 100))
# A small fit with these would stop early, write files, print, or draw from the program's random numbers.
_QUIET: Final[Mapping[str, Any]] = {
    "early_stopping_rounds": None,
    "early_stopping": False,
    "n_iter_no_change": None,
    "allow_writing_files": False,
    "random_state": 0,
    "warm_start": False,
}


class Timer(Protocol):
    """Makes a call and returns the seconds that it took."""

    def __call__(self, call: Callable[[], object], /) -> float: ...


@dataclass(frozen=True, slots=True)
class Site:
    """The power of the machine, its grid and its overhead, with the source of each.

    Attributes:
        watts: power while the estimator is fitted.
        watts_source: the meter, or the assumption.
        measured: whether a meter of this process gave the watts.
        g_per_kwh: carbon intensity with its band.
        grid: where the intensity comes from.
        pue: power usage effectiveness of the site.
    """

    watts: Interval
    watts_source: str
    measured: bool
    g_per_kwh: Interval
    grid: str
    pue: float = 1.0


@dataclass(frozen=True, slots=True)
class Fit:
    """A small fit: rows, trees or rounds, and seconds."""

    rows: int
    units: float
    seconds: float


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
    rows = _rows(features)
    if rows < 2:
        raise ValueError(f"X has {rows} rows; an estimator needs at least 2")
    family = family_of(estimator)
    prefix, last = _last_step(estimator)
    counted, whole = _counted(last) if family in ("forest", "boosting") else ("", 1.0)
    probing = _Probing(estimator, prefix, counted, features, target, timer, budget_s, budget_s, rows)
    few = _fewest_units(last, whole, family)
    fits = probing.grow(few, lambda n: law(family, n, _depth(last)))
    largest = fits[-1].rows
    if counted and whole > few:
        fits.append(probing.more_units(largest, few, whole, fits[-1].seconds))
    seconds = _extrapolated(family, fits, rows, whole, _depth(last))
    return Timing(
        family, type(last).__name__, rows, whole, seconds, tuple(fits), math.fsum(fit.seconds for fit in fits)
    )


def family_of(estimator: Any) -> Family:
    """The scaling law that an estimator follows, by its class."""
    _, last = _last_step(estimator)
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


def forecast_of(timing: Timing, site: Site) -> Forecast:
    """Energy and carbon of a fit that takes that time at that site."""
    kwh = (timing.seconds * site.watts).times(1 / J_PER_KWH)
    at_meter = kwh.times(site.pue)
    small = timing.fits[-1]
    unit = {"forest": "trees", "boosting": "rounds"}.get(timing.family, "") if timing.units > 1 else ""
    size = f"{timing.rows:,} rows" + (f", {timing.units:,.0f} {unit}" if unit else "")
    seconds, watts, grid = timing.seconds, site.watts, site.g_per_kwh
    assumptions = (
        Assumption(
            "seconds of the fit",
            seconds.p50,
            seconds.p10,
            seconds.p90,
            "s",
            f"{len(timing.fits)} small fits in {timing.fit_s:.2g} s, up to {small.rows:,} rows"
            + (f" and {max(f.units for f in timing.fits):,.0f} {unit}" if unit else "")
            + f"; law of {timing.family}",
        ),
        Assumption("power", watts.p50, watts.p10, watts.p90, "W", site.watts_source, site.measured),
        Assumption("carbon intensity", grid.p50, grid.p10, grid.p90, "g/kWh", site.grid),
        Assumption("PUE", site.pue, site.pue, site.pue, "", "given"),
    )
    return Forecast(
        kind="estimator",
        title=f"{timing.name}, {size}",
        scope="node",
        energy_kwh=at_meter,
        it_energy_kwh=kwh,
        emissions_kg=(at_meter * grid).times(1 / KILO),
        assumptions=assumptions,
        days=seconds.times(1 / S_PER_DAY),
        notes=("An early stop would make it shorter.",) if timing.family == "boosting" else (),
    )


@dataclass(slots=True)
class _Probing:
    """Fits clones of one estimator to parts of its data, within a budget of seconds."""

    estimator: Any
    prefix: str
    counted: str
    features: Any
    target: Any
    timer: Timer
    left_s: float
    budget_s: float
    rows: int

    def grow(self, units: float, cost: Callable[[float], float]) -> list[Fit]:
        """Fits with few trees and growing rows, as long as the next one is expected to fit into the budget."""
        fits: list[Fit] = []
        most = (
            self.rows
            if self.counted
            else max(math.ceil(self.rows * _MOST_ROWS), min(self.rows, _FEWEST_ROWS))
        )
        reserve = 1 + _MORE if self.counted else 1.0
        rows = min(most, _FEWEST_ROWS)
        # The first fit loads libraries and starts threads.
        self._fit(rows, units)
        while True:
            fits.append(self._fit(rows, units))
            if rows == most:
                return fits
            following = min(most, rows * _GROWTH)
            # What the smallest fit takes is mostly a fixed part.
            expected = grown(fits, cost(following), cost) if len(fits) > 1 else 2 * fits[0].seconds
            if self.left_s < reserve * expected:
                return fits
            rows = following

    def more_units(self, rows: int, few: float, whole: float, seconds: float) -> Fit:
        """A fit with more trees on the same rows, which tells the fixed part from that of each tree.

        If trees are cheap, there are so many of them that they outweigh the fixed part.
        """
        cheap = few * _CHEAP * self.budget_s / max(seconds, 1e-9)
        return self._fit(rows, math.floor(min(whole, max(_MORE * few, min(cheap, whole / 2)))))

    def _fit(self, rows: int, units: float) -> Fit:
        probe = _clone(self.estimator)
        parameters = probe.get_params(deep=True)
        changed = {f"{self.prefix}{name}": value for name, value in _QUIET.items()}
        changed = {
            name: value
            for name, value in changed.items()
            if name in parameters or name == "allow_writing_files"
        }
        if parameters.get(f"{self.prefix}random_state") is not None:
            changed.pop(f"{self.prefix}random_state", None)
        if f"{self.prefix}early_stopping" in parameters:
            changed.pop(f"{self.prefix}n_iter_no_change", None)  # has no effect then, and must be a number
        if not _is_catboost(probe):
            changed.pop("allow_writing_files", None)
        elif not {"silent", "verbose", "logging_level", "verbose_eval"} & set(parameters):
            changed["verbose"] = False
        if self.counted:
            changed[f"{self.prefix}{self.counted}"] = int(units)
        probe.set_params(**changed)
        features, target = _part(self.features, self.target, rows, self.rows)
        seconds = self.timer(lambda: probe.fit(features) if target is None else probe.fit(features, target))
        self.left_s -= seconds
        return Fit(rows, units, seconds)


def grown(fits: list[Fit], cost: float, law_of: Callable[[float], float]) -> float:
    """Seconds of a fit of that cost: a fixed part, and one that grows with the law, from the two largest fits."""
    last = fits[-1]
    if len(fits) < 2 or fits[-2].rows == last.rows:
        return last.seconds * cost / law_of(last.rows)
    slope = (last.seconds - fits[-2].seconds) / (law_of(last.rows) - law_of(fits[-2].rows))
    # A disturbed fit must not make it shrink.
    return last.seconds + max(slope, 0.25 * last.seconds / law_of(last.rows)) * (cost - law_of(last.rows))


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


def _last_step(estimator: Any) -> tuple[str, Any]:
    """The prefix of the parameters of the last step of a pipeline, and that step."""
    prefix, last = "", estimator
    while isinstance(steps := getattr(last, "steps", None), list) and steps:
        prefix, last = f"{prefix}{steps[-1][0]}__", steps[-1][1]
    return prefix, last


def _counted(estimator: Any) -> tuple[str, float]:
    parameters = estimator.get_params()
    for name, default in _UNITS:
        if name in parameters:
            value = parameters[name]
            return name, float(default if value is None else value)
    if _is_catboost(estimator):
        return "iterations", 1000.0
    return "", 1.0


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


def _is_catboost(estimator: Any) -> bool:
    return any(base.__module__.partition(".")[0] == "catboost" for base in type(estimator).__mro__)


def _clone(estimator: Any) -> Any:
    """An unfitted copy, by the library's own rule where it has one."""
    try:
        from sklearn.base import clone
    except ImportError:
        return type(estimator)(**copy.deepcopy(estimator.get_params(deep=False)))
    return clone(estimator)


def _rows(features: Any) -> int:
    shape = getattr(features, "shape", None)
    return int(shape[0]) if shape else len(features)


def _part(features: Any, target: Any, rows: int, whole: int) -> tuple[Any, Any]:
    """Rows at equal distances, with the first row of each class, so that every class is there."""
    if rows >= whole:
        return features, target
    chosen = {i * whole // rows for i in range(rows)}
    if target is not None:
        seen: dict[object, int] = {}
        for i, label in enumerate(_labels(target)):
            seen.setdefault(label, i)
        if len(seen) <= max(2, rows // 10):  # a regression has as many values as rows
            chosen |= set(seen.values())
    indices = sorted(chosen)
    return _taken(features, indices), None if target is None else _taken(target, indices)


def _labels(target: Any) -> Any:
    values = getattr(target, "values", target)
    flat = values.tolist() if hasattr(values, "tolist") else list(values)
    return (tuple(each) if isinstance(each, list) else each for each in flat)


def _taken(table: Any, indices: list[int]) -> Any:
    if hasattr(table, "iloc"):
        return table.iloc[indices]
    if hasattr(table, "shape"):
        return table[indices]
    return [table[i] for i in indices]

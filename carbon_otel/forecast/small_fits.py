"""Small fits of an estimator: clones of it, on parts of its data, with few trees, within a budget of seconds."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

_FEWEST_ROWS: Final = 200
# Each small fit has this many times the rows of the one before.
_GROWTH: Final = 4
# The second fit of some rows has at least this many times the trees of the first; its time is kept in reserve.
_MORE: Final = 3.0
# It has so many that it takes about this share of the time that is left, but at most half of all trees.
_USED: Final = 0.7
# Short fits say little about power and pace: the last one is repeated until all have taken this share of the
# budget, or as long as the training itself will take.
_SETTLED: Final = 0.6
_MOST_REPEATS: Final = 50
# A coarse clock stands still in a fit of some milliseconds.
_SHORTEST_S: Final = 1e-9
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
class Fit:
    """A small fit: rows, trees or rounds, and seconds."""

    rows: int
    units: float
    seconds: float


@dataclass(slots=True)
class Probing:
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
        """A fit with more trees on the same rows, which tells the fixed part from that of each tree."""
        affordable = few * _USED * max(0.0, self.left_s) / max(seconds, 1e-9)
        return self._fit(rows, math.floor(min(whole, max(_MORE * few, min(affordable, whole / 2)))))

    def settle(self, last: Fit, whole_s: float) -> Fit:
        """The last fit with its mean time, repeated until the time of all fits says enough about the training.

        Args:
            last: the last fit.
            whole_s: seconds that the training is expected to take.
        """
        times = [last.seconds]
        wanted_s = min(_SETTLED * self.budget_s, whole_s)
        while self.budget_s - self.left_s < wanted_s and len(times) <= _MOST_REPEATS:
            times.append(self._fit(last.rows, last.units).seconds)
        return replace(last, seconds=math.fsum(times) / len(times))

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
        seconds = max(seconds, _SHORTEST_S)
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


def last_step(estimator: Any) -> tuple[str, Any]:
    """The prefix of the parameters of the last step of a pipeline, and that step."""
    prefix, last = "", estimator
    while isinstance(steps := getattr(last, "steps", None), list) and steps:
        prefix, last = f"{prefix}{steps[-1][0]}__", steps[-1][1]
    return prefix, last


def counted_by(estimator: Any) -> tuple[str, float]:
    """The parameter that counts trees or rounds, and their number; an empty name if there is none."""
    parameters = estimator.get_params()
    for name, default in _UNITS:
        if name in parameters:
            value = parameters[name]
            return name, float(default if value is None else value)
    if _is_catboost(estimator):
        return "iterations", 1000.0
    return "", 1.0


def _is_catboost(estimator: Any) -> bool:
    return any(base.__module__.partition(".")[0] == "catboost" for base in type(estimator).__mro__)


def _clone(estimator: Any) -> Any:
    """An unfitted copy, by the library's own rule where it has one."""
    try:
        from sklearn.base import clone
    except ImportError:
        return type(estimator)(**copy.deepcopy(estimator.get_params(deep=False)))
    return clone(estimator)


def rows_of(features: Any) -> int:
    """The number of rows of an array, a frame or a list."""
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
    if hasattr(table, "tocsr"):
        return table.tocsr()[indices]  # a sparse matrix of another format has no rows to take
    if hasattr(table, "shape"):
        return table[indices]
    return [table[i] for i in indices]

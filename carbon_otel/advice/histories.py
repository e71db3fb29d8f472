"""Histories of metrics in a store, and the energy that a run had used at any time."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from carbon_otel.advice.attempts import Attempt
from carbon_otel.lifecycle.by_hour import uses_of
from carbon_otel.mlflow.schema import names
from carbon_otel.units import MS_PER_S

# The curve of a run without nested runs ends at its energy, but for rounding.
_ROUNDING: Final = 1e-6


class Point(NamedTuple):
    """A value of a metric; `at_ms` are milliseconds since the epoch."""

    step: int
    at_ms: int
    value: float


class Spent(NamedTuple):
    """The watt-hours used up to a time: by interpolation, the least and the most that they may be."""

    wh: float
    low_wh: float
    high_wh: float

    def until(self, later: Spent) -> Spent:
        """What was used from this time to a later one."""
        return Spent(
            max(0.0, later.wh - self.wh),
            max(0.0, later.low_wh - self.high_wh),
            max(0.0, later.high_wh - self.low_wh),
        )


class Curve:
    """Energy since the start of a run: points (milliseconds since the epoch, watt-hours), which only rise."""

    def __init__(self, points: Sequence[tuple[int, float]]) -> None:
        self._points = points

    @property
    def total_wh(self) -> float:
        """The energy at the last point."""
        return self._points[-1][1]

    def at(self, ms: int) -> Spent:
        """The energy up to a time; between two points it lies between theirs."""
        place = bisect.bisect_left(self._points, (ms, -math.inf))
        if place == len(self._points):
            return Spent(self.total_wh, self.total_wh, self.total_wh)
        at_ms, wh = self._points[place]
        if at_ms == ms:
            # Several points may have one time; the last of them counts.
            last = bisect.bisect_right(self._points, (ms, math.inf)) - 1
            wh = self._points[last][1]
            return Spent(wh, wh, wh)
        if place == 0:
            return Spent(0.0, 0.0, 0.0)
        before_ms, before_wh = self._points[place - 1]
        share = (ms - before_ms) / (at_ms - before_ms)
        return Spent(before_wh + share * (wh - before_wh), before_wh, wh)


class Histories:
    """Reads histories from a store, each once. Its methods raise the errors of the store."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self._points: dict[tuple[str, str], list[Point]] = {}
        self._curves: dict[str, Curve | None] = {}

    def of(self, run_id: str, metric: str) -> list[Point]:
        """The points of a metric by step; of several with one step, the last."""
        key = run_id, metric
        if key not in self._points:
            found = self.client.get_metric_history(run_id, metric)
            points = {
                each.step: Point(each.step, each.timestamp, each.value)
                for each in sorted(found, key=lambda each: each.timestamp)
                if math.isfinite(each.value)
            }
            self._points[key] = [points[step] for step in sorted(points)]
        return self._points[key]

    def energy(self, attempt: Attempt) -> Curve | None:
        """The energy of a run over time: by its curve in MLflow, else by its quarter-hours.

        None if it has neither, or if the curve has the energy of nested runs, too.
        """
        if attempt.run_id not in self._curves:
            self._curves[attempt.run_id] = self._curve(attempt)
        return self._curves[attempt.run_id]

    def _curve(self, attempt: Attempt) -> Curve | None:
        own_wh = attempt.entry.energy_wh
        curve = self.client.get_metric_history(attempt.run_id, names.ENERGY_WH)
        points = [(attempt.start_ms, 0.0)]
        for each in sorted(curve, key=lambda each: (each.timestamp, each.value)):
            points.append((max(each.timestamp, points[-1][0]), max(each.value, points[-1][1])))
        if len(points) == 1:
            points += _by_quarters(attempt)
        if len(points) == 1 or points[-1][1] > own_wh * (1 + _ROUNDING):
            return None
        end_ms = attempt.end_ms or points[-1][0]
        if points[-1][1] < own_wh:  # of a process that shared the run, or a checkpoint that came late
            points.append((max(end_ms, points[-1][0]), own_wh))
        return Curve(points)


def _by_quarters(attempt: Attempt) -> list[tuple[int, float]]:
    try:
        uses = uses_of(attempt.entry)
    except ValueError:
        return []
    spent, points = 0.0, []
    last_ms = attempt.end_ms or math.inf
    for use in uses:
        spent += use.wh
        ms = int(min(use.end.timestamp() * MS_PER_S, last_ms))
        points.append((max(ms, attempt.start_ms), min(spent, attempt.entry.energy_wh)))
    return points

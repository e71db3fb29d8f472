"""Which metric tells how good a run is."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from carbon_otel.advice.attempts import Attempt
from carbon_otel.advice.histories import Point
from carbon_otel.lifecycle.better import direction, has_word

# Shorter histories show no course.
LEAST_POINTS: Final = 3
_HELD_OUT: Final = re.compile("(val|valid|validation|eval|test|dev|holdout)")
# Reading a history is a request, and most metrics have none.
_MOST_TRIED: Final = 12


class Metric(NamedTuple):
    """A metric of quality."""

    name: str
    lower_is_better: bool

    def better(self, one: float, other: float) -> bool:
        """Whether `one` is better than `other`."""
        return one < other if self.lower_is_better else one > other

    def best(self, points: Iterable[Point]) -> Point:
        """The best of some points; of equal ones, the first."""
        found = iter(points)
        best = next(found)
        for point in found:
            if self.better(point.value, best.value):
                best = point
        return best


def known(attempts: Sequence[Attempt]) -> list[Metric]:
    """The metrics whose names say what is better: of held-out data first, a training loss last."""
    counts = Counter(name for attempt in attempts for name in attempt.metrics)
    found = [Metric(name, lower) for name in counts if (lower := direction(name)) is not None]
    return sorted(
        found, key=lambda each: (_rank(*each), -counts[each.name], not each.lower_is_better, each.name)
    )


def choose(attempts: Sequence[Attempt], history: Callable[[str, str], Sequence[Point]]) -> Metric | None:
    """The first of these metrics of which a run has a history; None if there is none."""
    for metric in known(attempts)[:_MOST_TRIED]:
        tried = [attempt for attempt in attempts if metric.name in attempt.metrics][:_MOST_TRIED]
        if any(len(history(attempt.run_id, metric.name)) >= LEAST_POINTS for attempt in tried):
            return metric
    return None


def _rank(name: str, lower_is_better: bool) -> int:
    if has_word(name, _HELD_OUT):
        return 0
    return 2 if lower_is_better else 1

"""Sums of a process since it began, in plain numbers."""

from __future__ import annotations

import time
from collections.abc import Sequence


class Count:
    """A sum since `start_ns`, wall-clock nanoseconds."""

    __slots__ = ("start_ns", "total")

    def __init__(self, start_ns: int, total: float = 0.0) -> None:
        self.start_ns = start_ns
        self.total = total


class Spread:
    """A histogram since `start_ns`; `bounds` are the inclusive upper ends of all buckets but the last."""

    __slots__ = ("bounds", "buckets", "greatest", "least", "start_ns", "total")

    def __init__(self, start_ns: int, bounds: Sequence[float]) -> None:
        self.start_ns = start_ns
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        self.total, self.least, self.greatest = 0.0, float("inf"), float("-inf")

    def add(self, value: float, bucket: int) -> None:
        self.buckets[bucket] += 1
        self.total += value
        self.least, self.greatest = min(self.least, value), max(self.greatest, value)


class Counts:
    """What one meter provider has been told in this process, over all sessions; keys are the values of labels.

    Attributes:
        instance: the `service.instance.id` of a process whose provider has none.
        energy: joules by kind, name, component and method.
        emissions: grams by kind and name.
        durations: seconds by kind and name.
        units: functional units by kind, name and unit.
    """

    def __init__(self, instance: str) -> None:
        self.start_ns = time.time_ns()
        self.instance = instance
        self.energy: dict[tuple[str, ...], Count] = {}
        self.emissions: dict[tuple[str, ...], Count] = {}
        self.durations: dict[tuple[str, ...], Spread] = {}
        self.units: dict[tuple[str, ...], Count] = {}


def count(counts: dict[tuple[str, ...], Count], key: tuple[str, ...], amount: float) -> None:
    """Add an amount to the sum of a key, which may be new."""
    found = counts.get(key)
    if found is None:
        found = counts[key] = Count(time.time_ns())
    found.total += amount

"""What the counters say, kept for the journal.

This works on a provider of our own, on the application's, and without any. What is kept has the series that the
process exports: the same resource, labels and sums.
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from carbon_otel.otel import instance
from carbon_otel.otel.counts import Count, Counts, Spread, count
from carbon_otel.otel.instruments import DURATIONS_S, Instruments
from carbon_otel.otel.labels import LabelBook, Labels
from carbon_otel.otel.otlp_json import Point, request
from carbon_otel.ranks import group
from carbon_otel.records import StageInfo
from carbon_otel.semconv import names as semconv
from carbon_otel.serial import Serial
from carbon_otel.sinks import Sink, StageEnd


class Kept(Sink):
    """Counts what `OtelSink` counts. It must be told first: what is kept is never less than what is exported."""

    def __init__(self, instruments: Instruments, labels: LabelBook, resource: Mapping[str, Any]) -> None:
        """`resource` counts where no provider has one; its `service.instance.id` where the provider's has none."""
        self._instruments = instruments
        self._labels = labels
        self._own = resource
        if instruments.counts is None:
            instruments.counts = Counts(str(resource[semconv.INSTANCE]))
        self._counts: Counts = instruments.counts
        self._one_at_a_time = Serial("keeping the metrics")

    def follow(self, instruments: Instruments) -> None:
        """The process exports by other instruments from now on: what was counted so far goes on with them."""
        self._one_at_a_time.run(self._follow, instruments)

    def _follow(self, instruments: Instruments) -> None:
        self._instruments = instruments
        if instruments.counts is None:
            instruments.counts = self._counts
        self._counts = instruments.counts

    def energy_attributed(
        self, stage: StageInfo, joules: Sequence[float], grams: float, embodied_g: float
    ) -> None:
        self._one_at_a_time.run(self._pay, self._labels.of(stage), joules, grams)

    def stage_closed(self, stage: StageInfo, end: StageEnd) -> None:
        self._one_at_a_time.run(self._end, self._labels.of(stage), end.duration_s, group.summed(end.units))

    def hand_to(self, take: Callable[[dict[str, Any]], object]) -> None:
        """Call `take` with a request of OTLP as JSON, as soon as no other thread counts."""
        self._one_at_a_time.run(lambda: take(self._request()))

    def around_exports(self, before: Callable[[], object], after: Callable[[bool], object]) -> None:
        """Call `before` whenever the SDK is about to collect the metrics, on its thread.

        Where the provider is our own, call `after` with whether the receiver has taken them.
        """
        self._instruments.source.before_export = before
        self._instruments.source.after_export = after

    def _pay(self, labels: Labels, joules: Sequence[float], grams: float) -> None:
        for devices, indexes in self._labels.groups.items():
            amount = sum([joules[i] for i in indexes])
            if amount > 0:
                count(self._counts.energy, (*labels.key, *devices), amount)
        if grams > 0:
            count(self._counts.emissions, labels.key, grams)

    def _end(self, labels: Labels, duration_s: float, units: Mapping[str, float]) -> None:
        spread = self._counts.durations.get(labels.key)
        if spread is None:
            spread = self._counts.durations[labels.key] = Spread(time.time_ns(), DURATIONS_S)
        spread.add(duration_s, bisect.bisect_left(DURATIONS_S, duration_s))
        for unit, amount in units.items():
            count(self._counts.units, (*labels.key, self._labels.unit(unit)), amount)

    def _request(self) -> dict[str, Any]:
        counts, names = self._counts, (semconv.STAGE_KIND, semconv.STAGE_NAME)
        points: dict[str, list[Point]] = {
            semconv.STAGE_ENERGY: self._points(counts.energy, *names, semconv.COMPONENT, semconv.METHOD),
            semconv.STAGE_EMISSIONS: self._points(counts.emissions, *names),
            semconv.STAGE_DURATION: self._points(counts.durations, *names),
            semconv.STAGE_UNITS: self._points(counts.units, *names, semconv.UNIT),
            semconv.EMBODIED: [
                (seen.attributes or {}, Count(counts.start_ns, seen.value))
                for seen in self._instruments.embodied()
            ],
            semconv.HW_ENERGY: list(self._devices(host=False)),
            semconv.HW_HOST_ENERGY: list(self._devices(host=True)),
        }
        return request(self._resource(), points, time.time_ns())

    def _points(self, counts: Mapping[tuple[str, ...], Count | Spread], *names: str) -> list[Point]:
        # The application may have set its provider, and so its label, since these were counted.
        apart = self._instruments.apart
        return [({**dict(zip(names, key, strict=True)), **apart}, each) for key, each in counts.items()]

    def _devices(self, *, host: bool) -> Iterator[Point]:
        for seen in self._instruments.energy(host=host):
            yield seen.attributes or {}, Count(self._counts.start_ns, seen.value)

    def _resource(self) -> Mapping[str, Any]:
        found = instance.resource_of(self._instruments.provider)
        if found is None:
            return {**self._own, semconv.INSTANCE: self._counts.instance}
        if self._instruments.apart:
            return dict(found.attributes)  # the id is on the points
        return {semconv.INSTANCE: self._counts.instance, **found.attributes}

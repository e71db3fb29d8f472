"""Exemplars that stay in every export until the next one replaces them.

The SDK exports each exemplar once. A collector that Prometheus scrapes shows only the last export, so an exemplar
would be lost if the next export came before the next scrape; and an export follows each end of a stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from carbon_otel.semconv import names as semconv

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import Exemplar, ExemplarReservoir
    from opentelemetry.sdk.metrics.view import View


class LastExemplars:
    """A reservoir of the SDK that keeps the exemplars of the last export that had any.

    A store ignores an exemplar that it has.
    """

    def __init__(self, reservoir: ExemplarReservoir) -> None:
        self.offer = reservoir.offer
        self._collect = reservoir.collect
        self._last: list[Exemplar] = []

    def collect(self, point_attributes: Mapping[str, Any]) -> list[Exemplar]:
        """The exemplars since the last call, or else those before."""
        self._last = self._collect(point_attributes) or self._last
        return self._last


def views() -> list[View]:
    """Views that let the counters of stages keep their exemplars."""
    from opentelemetry.sdk.metrics import SimpleFixedSizeExemplarReservoir
    from opentelemetry.sdk.metrics.view import View

    def reservoirs(aggregation: type) -> Callable[..., Any]:
        return lambda **parameters: LastExemplars(SimpleFixedSizeExemplarReservoir(**parameters))

    counters = (semconv.STAGE_ENERGY, semconv.STAGE_EMISSIONS, semconv.STAGE_UNITS)
    return [View(instrument_name=name, exemplar_reservoir_factory=reservoirs) for name in counters]

"""A forecast for people: one line, and the card of a notebook."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from carbon_otel.forecast.quantity import text_of
from carbon_otel.notebook.card import Card, Figure, Row, co2e
from carbon_otel.quantities import duration, energy
from carbon_otel.units import J_PER_KWH, KILO, S_PER_DAY, S_PER_H

if TYPE_CHECKING:
    from carbon_otel.forecast.records import Assumption, Forecast, Interval

_MOST_INFLUENCES: Final = 3


def summary(forecast: Forecast) -> str:
    """One line; the bands are the 10th to the 90th percentile."""
    joules, grams = _figure(forecast.energy_kwh, J_PER_KWH), _figure(forecast.emissions_kg, KILO)
    return f"{forecast.title!r}, {energy(*joules)}, {co2e(*grams)}"


def card(forecast: Forecast) -> Card:
    """The card of a forecast. Its phases are alternatives: the first one has the figures above."""
    phases = forecast.phases if len(forecast.phases) > 1 else ()
    return Card(
        f"Forecast: {forecast.title}",
        energy=_figure(forecast.energy_kwh, J_PER_KWH),
        emissions=_figure(forecast.emissions_kg, KILO),
        texts=_texts(forecast),
        of="phase",
        rows=[
            Row(phase.name, phase.energy_kwh.p50 * J_PER_KWH, phase.emissions_kg.p50 * KILO)
            for phase in phases
        ],
        parts=False,
        facts=tuple(_facts(forecast)),
        more=tuple((each.name, _text(each)) for each in forecast.assumptions),
    )


def _figure(interval: Interval, factor: float) -> Figure:
    return Figure(interval.p50 * factor, interval.p10 * factor, interval.p90 * factor)


def _texts(forecast: Forecast) -> tuple[str, ...]:
    if forecast.days is not None:
        return (duration(forecast.days.p50 * S_PER_DAY),)
    return () if forecast.gpu_hours is None else (f"{duration(forecast.gpu_hours.p50 * S_PER_H)} of a GPU",)


def _facts(forecast: Forecast) -> Iterator[str]:
    yield f"Nothing is measured. Bands from the 10th to the 90th percentile · scope {forecast.scope}"
    if len(forecast.phases) > 1:
        yield f"The figures above are those of {forecast.phases[0].name} alone."
    if forecast.embodied_kg is not None:
        yield f"Embodied carbon, not in the emissions: {co2e(*_figure(forecast.embodied_kg, KILO))}"
    if forecast.j_per_output_token is not None:
        yield f"{energy(*_figure(forecast.j_per_output_token, 1.0))} for each generated token"
    largest = [f"{each.name} ({each.share:.0%})" for each in forecast.influences[:_MOST_INFLUENCES]]
    if largest:
        yield f"Most uncertain by {', '.join(largest)}"
    yield from forecast.notes


def _text(assumption: Assumption) -> str:
    value = f"{text_of(assumption.value)} {assumption.unit}".strip()
    band = ""
    if assumption.low < assumption.high:
        band = f" ({text_of(assumption.low)} to {text_of(assumption.high)})"
    return f"{value}{band}; {assumption.source}"

"""Figures to file: the energy of a model for the EU AI Act, and the two scores of SCI for AI.

Annex XI of Regulation (EU) 2024/1689, section 1, point 2(e), asks providers of general-purpose models for the
"known or estimated energy consumption of the model". SCI for AI (Green Software Foundation, 2026) divides
emissions, operational and embodied, by a functional unit: a provider's score for what it takes to make a model, a
consumer's score for what it takes to use it. The two must not be added.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from carbon_otel import quantities
from carbon_otel.forecast.records import Forecast, Interval, remainder, total
from carbon_otel.lifecycle.report import Report
from carbon_otel.units import J_PER_KWH, KILO

_BASIS: Final = "Regulation (EU) 2024/1689, Annex XI, section 1, point 2(e)"
_SPEC: Final = "SCI for AI (Green Software Foundation), (O + M) / R; location-based"
# The phases of a forecast that make a model, and the one that uses it.
_USING: Final = "inference"


@dataclass(frozen=True, slots=True)
class Score:
    """One SCI score: grams of CO2 equivalent for each unit."""

    role: str
    per: str
    g_per_unit: Interval


@dataclass(frozen=True, slots=True)
class Filing:
    """A text to file, and its figures by name."""

    text: str
    figures: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Text and figures in plain types, ready for JSON."""
        return {**self.figures, "text": self.text}


def annex_xi(source: Forecast | Report) -> Filing:
    """The paragraph on the energy consumption of a model, from a forecast (estimated) or its ledger (known).

    Raises ValueError for a forecast of inference: Annex XI asks for the model, which its training makes.
    """
    if isinstance(source, Report):
        return _annex_of_ledger(source)
    if source.kind == _USING:
        raise ValueError("Annex XI asks for the energy of the model itself; forecast its training")
    parts = [phase for phase in source.phases if phase.name != _USING]
    energy = total(phase.energy_kwh for phase in parts) if parts else source.energy_kwh
    emissions = total(phase.emissions_kg for phase in parts) if parts else source.emissions_kg
    names = ", ".join(phase.name for phase in parts) or source.kind
    unverified = [each.name for each in source.assumptions if not each.verified]
    mwh, tonnes = energy.times(1 / KILO), emissions.times(1 / KILO)
    text = (
        f"Estimated energy consumption of the model ({source.title}): {_energy(energy)} at the meter of the "
        f"site, for {names}. Estimated emissions from electricity: {_emissions(emissions)}, location-based. "
        "The figures are estimates from computational resources, made before the run: median, with the 10th and "
        "90th percentile. Method: carbon_otel forecast; FLOPs, efficiency and power are stated with their sources "
        f"in its {len(source.assumptions)} assumptions"
        + (f", of which these are not verified: {'; '.join(unverified)}" if unverified else "")
        + f". Filed under {_BASIS}."
    )
    figures = {
        "basis": _BASIS,
        "status": "estimated",
        "method": "forecast",
        "phases": [phase.name for phase in parts] or [source.kind],
        "energy_mwh": mwh.as_dict(),
        "emissions_t": tonnes.as_dict(),
        "interval": "p10, p50, p90",
        "unverified": unverified,
    }
    return Filing(text, figures)


def _annex_of_ledger(report: Report) -> Filing:
    making = [cost for kind, cost in report.by_stage.items() if kind != _USING]
    wh, grams = sum(c.energy_wh for c in making), sum(c.emissions_g for c in making)
    # The bands of the total hold for its parts: they share hardware and grid.
    energy = _scaled(wh / KILO, report.total.low_wh, report.total.energy_wh, report.total.high_wh)
    emissions = _scaled(grams / KILO, report.total.low_g, report.total.emissions_g, report.total.high_g)
    measured = report.measured_fraction
    kinds = ", ".join(kind for kind in report.by_stage if kind != _USING)
    status = "known" if measured >= 0.5 else "estimated"
    methods = ", ".join(dict.fromkeys(attempt.method for attempt in report.attempts)) or "unknown"
    text = (
        f"{status.capitalize()} energy consumption of the model ({report.title}): {_energy(energy)} of "
        f"the machines, without the overhead of the site, for {kinds}, in {len(report.entries)} recorded runs, "
        "failed ones included. Emissions from electricity: "
        f"{_emissions(emissions)}, location-based, with the overhead of the site. "
        f"Hardware sensors measured {measured:.0%} of the energy; method: {methods}. "
        "The range is the band of the method (k=2)."
        + (f" Lower bounds: {'; '.join(report.lower_bounds)}." if report.lower_bounds else "")
        + f" Filed under {_BASIS}."
    )
    figures = {
        "basis": _BASIS,
        "status": status,
        "method": methods,
        "phases": [kind for kind in report.by_stage if kind != _USING],
        "energy_kwh": {"low": energy.p10, "value": energy.p50, "high": energy.p90},
        "emissions_kg": {"low": emissions.p10, "value": emissions.p50, "high": emissions.p90},
        "interval": "band, k=2",
        "measured_fraction": measured,
        "lower_bounds": list(report.lower_bounds),
    }
    return Filing(text, figures)


def sci_ai(source: Forecast | Report) -> Filing:
    """The provider's and the consumer's score, for each unit that the source has.

    A forecast of training has the provider's score alone, one of inference the consumer's; a ledger has both, with
    embodied carbon if it is known for all its entries.
    """
    scores = list(_scores_of_ledger(source) if isinstance(source, Report) else _scores_of_forecast(source))
    if not scores:
        raise ValueError(
            "no functional unit is known: set units in the stages, such as stage.units(tokens=...), or forecast "
            "with parameters and tokens"
        )
    embodied = _has_embodied(source) if isinstance(source, Report) else source.embodied_kg is not None
    lines = [f"{_SPEC}; {'with' if embodied else 'without'} embodied carbon.", source.title]
    lines += [f"{s.role}: {_emissions(s.g_per_unit.times(1 / KILO))} per {s.per}" for s in scores]
    lines.append("Provider and consumer scores must not be added.")
    figures = {
        "specification": _SPEC,
        "title": source.title,
        "embodied": embodied,
        "scores": [{"role": s.role, "per": s.per, "g": s.g_per_unit.as_dict()} for s in scores],
    }
    return Filing("\n".join(lines), figures)


def _scores_of_forecast(forecast: Forecast) -> list[Score]:
    if forecast.kind == _USING:
        return _consumer(forecast)
    parts = [phase.emissions_kg for phase in forecast.phases if phase.name != _USING]
    kg = total(parts) if parts else forecast.emissions_kg
    if forecast.embodied_kg is not None:
        kg = kg + forecast.embodied_kg
    units: dict[str, float | None] = {
        "training token": _size(forecast.tokens),
        "parameter": _size(forecast.params),
        "FLOP (effective: model FLOPs)": _size(forecast.flops),
    }
    return [
        Score("provider", unit, kg.times(KILO / amount))
        for unit, amount in units.items()
        if amount is not None
    ]


def _size(interval: Interval | None) -> float | None:
    return interval.p50 if interval is not None and interval.p50 > 0 else None


def _consumer(forecast: Forecast) -> list[Score]:
    """Grams per token: joules per token, with the overhead of the site, times the grams of a kilowatt-hour."""
    kwh, kg = forecast.energy_kwh, forecast.emissions_kg
    if kwh.p50 <= 0:
        return []
    site = 1.0
    if forecast.scope != "service" and forecast.it_energy_kwh.p50 > 0:
        site = kwh.p50 / forecast.it_energy_kwh.p50
    grid = remainder(kg, kwh).times(kg.p50 * KILO / kwh.p50)
    making = Interval.exact(0.0)
    if forecast.embodied_kg is not None:
        making = forecast.embodied_kg.times(KILO / kwh.p50)
    tokens = (("output token", forecast.j_per_output_token), ("input token", forecast.j_per_input_token))
    return [
        Score("consumer", unit, each * grid + making.times(each.p50))
        for unit, joules in tokens
        if joules is not None
        for each in (joules.times(site / J_PER_KWH),)
    ]


def _has_embodied(report: Report) -> bool:
    return report.beside.embodied_g is not None and not report.beside.embodied_unknown


def _scores_of_ledger(report: Report) -> list[Score]:
    scores = []
    making = sum(cost.emissions_g for kind, cost in report.by_stage.items() if kind != _USING)
    made = report.beside.embodied_by_stage if _has_embodied(report) else {}
    making_embodied = sum(grams for kind, grams in made.items() if kind != _USING)
    for unit in ("tokens", "samples"):
        amount = sum(entry.units.get(f"training/{unit}", 0.0) for entry in report.entries)
        if amount > 0:
            per = _banded(report, making / amount, making_embodied / amount)
            scores.append(Score("provider", f"training {unit.removesuffix('s')}", per))
    for unit, cost in report.per_unit.items():
        embodied_g = report.beside.sci[unit] - cost.emissions_g if made else 0.0
        per = _banded(report, cost.emissions_g, embodied_g)
        scores.append(Score("consumer", unit.removesuffix("s"), per))
    return scores


def _banded(report: Report, grams: float, embodied_g: float) -> Interval:
    """Operational and embodied grams with the relative bands of the report's totals."""
    t, beside = report.total, report.beside
    operational = _scaled(grams, t.low_g, t.emissions_g, t.high_g)
    whole = beside.embodied_low_g or 0.0, beside.embodied_g or 0.0, beside.embodied_high_g or 0.0
    return operational + _scaled(embodied_g, *whole) if embodied_g else operational


def _scaled(value: float, low: float, middle: float, high: float) -> Interval:
    """The value with the relative band of another one."""
    if middle <= 0:
        return Interval(value, value, value)
    return Interval(value * min(1.0, low / middle), value, value * max(1.0, high / middle))


def _energy(kwh: Interval) -> str:
    joules = kwh.times(J_PER_KWH)
    return quantities.energy(joules.p50, joules.p10, joules.p90)


def _emissions(kg: Interval) -> str:
    grams = kg.times(KILO)
    return quantities.emissions(grams.p50, grams.p10, grams.p90, of="CO2e")

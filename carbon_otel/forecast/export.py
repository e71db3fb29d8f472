"""A forecast in plain types, ready for JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from carbon_otel.forecast.records import Forecast, Interval

_INTERVALS: Final = (
    "flops",
    "gpu_hours",
    "days",
    "gpus",
    "tokens",
    "params",
    "energy_mwh",
    "it_energy_mwh",
    "energy_kwh",
    "it_energy_kwh",
    "emissions_t",
    "emissions_kg",
    "embodied_t",
    "embodied_kg",
    "water_l",
    "j_per_output_token",
    "j_per_input_token",
    "months_to_training",
)


def as_dict(forecast: Forecast) -> dict[str, Any]:
    """The forecast by name; each quantity is `{"p10", "p50", "p90"}`, or None if it does not apply."""
    return {
        "kind": forecast.kind,
        "title": forecast.title,
        "scope": forecast.scope,
        **{name: _plain(getattr(forecast, name)) for name in _INTERVALS},
        "assumptions": [asdict(each) for each in forecast.assumptions],
        "phases": [
            {
                "name": phase.name,
                "energy_kwh": phase.energy_kwh.as_dict(),
                "emissions_kg": phase.emissions_kg.as_dict(),
                "basis": phase.basis,
            }
            for phase in forecast.phases
        ],
        "influences": [asdict(each) for each in forecast.influences],
        "notes": list(forecast.notes),
    }


def _plain(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else interval.as_dict()

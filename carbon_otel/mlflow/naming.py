"""A footprint as MLflow metrics and tags.

Units are in the names, since MLflow has no others; watt-hours and grams stand beside kWh and kg because its
pages round to two or three decimals. Stages are sums of exclusive figures by kind: with `run`, which is the
run's own time between stages, they add up to the total.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

from carbon_otel._version import __version__
from carbon_otel.footprint import Footprint
from carbon_otel.units import J_PER_KWH, J_PER_WH

PREFIX = "carbon/"
ENERGY_WH = "carbon/energy_wh"
MEASURED_WH = "carbon/energy_measured_wh"


def metrics(footprint: Footprint) -> dict[str, float]:
    """Cumulative figures of a run so far. Every one may be added to those of an earlier segment of the run."""
    values = {
        **_figures("carbon", footprint.energy_j, footprint.emissions_g),
        "carbon/energy_low_wh": footprint.low_j / J_PER_WH,
        "carbon/energy_high_wh": footprint.high_j / J_PER_WH,
        "carbon/emissions_low_g": footprint.low_g,
        "carbon/emissions_high_g": footprint.high_g,
        MEASURED_WH: footprint.energy_j * footprint.measured_fraction / J_PER_WH,
        "carbon/duration_s": footprint.duration_s,
    }
    for kind, (joules, grams) in footprint.stages.items():
        values.update(_figures(f"carbon/{kind}", joules, grams))
    return {name: value for name, value in values.items() if math.isfinite(value)}


def tags(
    footprint: Footprint, *, status: str, hardware: str, attribution: str, trace_id: str | None
) -> dict[str, str]:
    """Where the figures come from. `carbon.measured_fraction` is added when the totals are known."""
    place = footprint.intensity
    values = {
        "carbon.status": status,
        "carbon.updated_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "carbon.method": footprint.method,
        "carbon.pue": f"{footprint.pue:g}",
        "carbon.hardware": hardware,
        "carbon.attribution": attribution,
        "carbon.version": __version__,
        "carbon.missing": ", ".join(footprint.missing),
        "carbon.flags": ", ".join(footprint.flags),
        "carbon.trace_id": trace_id or "",
    }
    if place is not None:
        values |= {
            "carbon.zone": place.zone,
            "carbon.intensity_g_per_kwh": f"{place.g_per_kwh:g}",
            "carbon.intensity_kind": place.kind,
            "carbon.intensity_source": place.source,
            "carbon.intensity_year": str(place.year),
        }
    values |= {f"carbon.share.{rule}": f"{share:.4g}" for rule, share in footprint.shares.items()}
    return {name: value for name, value in values.items() if value}


def measured_fraction(values: Mapping[str, float]) -> float:
    total = values.get(ENERGY_WH, 0.0)
    return values.get(MEASURED_WH, 0.0) / total if total > 0 else 0.0


def _figures(prefix: str, joules: float, grams: float) -> dict[str, float]:
    return {
        f"{prefix}/energy_wh": joules / J_PER_WH,
        f"{prefix}/energy_kwh": joules / J_PER_KWH,
        f"{prefix}/emissions_g": grams,
        f"{prefix}/emissions_kg": grams / 1000,
    }

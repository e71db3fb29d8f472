"""A footprint as MLflow metrics and tags.

Units are in the names, since MLflow has no others; watt-hours and grams stand beside kWh and kg because its
pages round to two or three decimals. Stages are sums of exclusive figures by kind: with `run`, which is the
run's own time between stages, they add up to the total.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from types import MappingProxyType

from carbon_otel._version import __version__
from carbon_otel.footprint import Footprint
from carbon_otel.units import J_PER_KWH, J_PER_WH

PREFIX = "carbon/"
ENERGY_WH = "carbon/energy_wh"
MEASURED_WH = "carbon/energy_measured_wh"
UNITS = "carbon/units/"
LINEAGE = "carbon.lineage"
ENTRY = "carbon.entry_id"
PROCESS = "carbon.process"
MODEL = "carbon.model_id"
SOURCE_RUN = "carbon.source_run_id"
SOURCE_EXPERIMENT = "carbon.source_experiment_id"


def nested(kind: str, figure: str) -> str:
    """The part of `carbon/<kind>/<figure>` that runs nested in this one have, too: the ledger leaves it out."""
    return f"carbon/nested/{kind}/{figure}"


def metrics(
    footprint: Footprint,
    of_nested: Mapping[str, tuple[float, float]] = MappingProxyType({}),
    units: Mapping[str, float] = MappingProxyType({}),
) -> dict[str, float]:
    """Cumulative figures of a run so far. Every one may be added to those of an earlier segment of the run.

    `of_nested` are the joules and grams of its nested runs by kind of stage, `units` the functional units that
    its stages have done, by `<kind>/<unit>`.
    """
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
    for kind, (joules, grams) in of_nested.items():
        values[nested(kind, "energy_wh")] = joules / J_PER_WH
        values[nested(kind, "emissions_g")] = grams
    values |= {f"{UNITS}{unit}": amount for unit, amount in units.items()}
    return {name: value for name, value in values.items() if math.isfinite(value)}


def tags(
    footprint: Footprint,
    *,
    status: str,
    hardware: str,
    attribution: str,
    trace_id: str | None,
    lineage: str | None,
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
        LINEAGE: lineage or "",
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


def rates(values: Mapping[str, float]) -> dict[str, float]:
    """Watt-hours and grams per thousand functional units of each kind of stage, from a run's sums."""
    found = {}
    for name, amount in values.items():
        kind, slash, unit = name.removeprefix(UNITS).rpartition("/")
        if name.startswith(UNITS) and slash and amount > 0:
            for figure, short in (("energy_wh", "wh"), ("emissions_g", "g")):
                own = values.get(f"carbon/{kind}/{figure}", 0.0) - values.get(nested(kind, figure), 0.0)
                found[f"carbon/{kind}/{short}_per_1k_{unit}"] = max(0.0, own) / amount * 1000
    return found


def _figures(prefix: str, joules: float, grams: float) -> dict[str, float]:
    return {
        f"{prefix}/energy_wh": joules / J_PER_WH,
        f"{prefix}/energy_kwh": joules / J_PER_KWH,
        f"{prefix}/emissions_g": grams,
        f"{prefix}/emissions_kg": grams / 1000,
    }

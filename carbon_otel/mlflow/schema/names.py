"""A footprint as MLflow metrics and tags.

Units are in the names, since MLflow has no others; figures are in watt-hours and grams, because its pages round
to two or three decimals, the totals in kWh and kg, too. Stages are sums of exclusive figures by kind: with `run`,
which is the run's own time between stages, they add up to the total.
"""

from __future__ import annotations

import json
import math
import re
import socket
import time
from collections.abc import Mapping
from types import MappingProxyType

from carbon_otel._version import __version__
from carbon_otel.carbon.grid import Intensity
from carbon_otel.footprint import Footprint
from carbon_otel.units import J_PER_KWH, J_PER_WH

LEDGER = "carbon-ledger"  # the experiment for what has no run of the user's
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
HOURLY = "carbon.hourly_wh"
# Of a window of inference, all that is neither searched for nor charted is in this one tag, as JSON: a ledger has
# thousands of them, and each metric and tag is a row that a report has to read.
WINDOW = "carbon.window"
_CHARTED = frozenset({ENERGY_WH, "carbon/emissions_g"})
_SEARCHED = frozenset({"carbon.status", LINEAGE})

_NO_NAME = re.compile(r"[^\w.-]")


def step(name: str, at: int) -> int:
    """The step of a metric's point: MLflow draws a curve where steps differ, and a bar where they are all 0.

    Energy, emissions and power are curves. Of points of one step the latest is the one that counts.
    """
    return at if name in (ENERGY_WH, "carbon/emissions_g") or name.startswith("carbon/power/") else 0


def device(identifier: str) -> str:
    """A device's id as part of a metric's name."""
    return _NO_NAME.sub("_", identifier)


def nested(kind: str, figure: str) -> str:
    """The part of `carbon/<kind>/<figure>` that runs nested in this one have, too: the ledger leaves it out."""
    return f"carbon/nested/{kind}/{figure}"


def parts(footprint: Footprint) -> dict[str, float]:
    """What a run or a nested run adds up from, by what follows `carbon/` in the metric's name."""
    found = {}
    for kind, (joules, grams) in footprint.stages.items():
        found[f"{kind}/energy_wh"] = joules / J_PER_WH
        found[f"{kind}/emissions_g"] = grams
    for identifier, joules in footprint.devices_inclusive.items():
        found[f"devices/{device(identifier)}_wh"] = joules / J_PER_WH
    for component, joules in footprint.components.items():
        found[f"components/{component}_wh"] = joules / J_PER_WH
    return found


def metrics(
    footprint: Footprint,
    of_nested: Mapping[str, float] = MappingProxyType({}),
    units: Mapping[str, float] = MappingProxyType({}),
) -> dict[str, float]:
    """Cumulative figures of a run so far. Every one may be added to those of an earlier segment of the run.

    `of_nested` are the `parts()` of its nested runs, added up; `units` the functional units that its stages have
    done, by `<kind>/<unit>`.
    """
    values = {
        ENERGY_WH: footprint.energy_j / J_PER_WH,
        "carbon/energy_kwh": footprint.energy_j / J_PER_KWH,
        "carbon/emissions_g": footprint.emissions_g,
        "carbon/emissions_kg": footprint.emissions_g / 1000,
        "carbon/energy_low_wh": footprint.low_j / J_PER_WH,
        "carbon/energy_high_wh": footprint.high_j / J_PER_WH,
        "carbon/emissions_low_g": footprint.low_g,
        "carbon/emissions_high_g": footprint.high_g,
        MEASURED_WH: footprint.energy_j * footprint.measured_fraction / J_PER_WH,
        "carbon/duration_s": footprint.duration_s,
    }
    values |= {f"{PREFIX}{part}": value for part, value in parts(footprint).items()}
    values |= {f"{PREFIX}nested/{part}": value for part, value in of_nested.items()}
    values |= {f"{UNITS}{unit}": amount for unit, amount in units.items()}
    return {name: value for name, value in values.items() if math.isfinite(value)}


def tags(
    footprint: Footprint,
    *,
    status: str,
    hardware: str,
    attribution: str,
    trace_id: str | None,
    trace_url: str | None,
    lineage: str | None,
    process: str,
) -> dict[str, str]:
    """Where the figures come from. `carbon.measured_fraction` is added when the totals are known.

    `trace_url` is an address with `{trace_id}` in it, `process` what tells a process from all others.
    """
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
        "carbon.trace_url": trace_url.replace("{trace_id}", trace_id) if trace_url and trace_id else "",
        "carbon.host": socket.gethostname(),
        PROCESS: process,
        LINEAGE: lineage or "",
    }
    if place is not None:
        values |= intensity_tags(place)
    values |= {f"carbon.share.{rule}": f"{share:.4g}" for rule, share in footprint.shares.items()}
    return {name: value for name, value in values.items() if value}


def intensity_tags(place: Intensity) -> dict[str, str]:
    """By which grid emissions were computed."""
    return {
        "carbon.zone": place.zone,
        "carbon.intensity_g_per_kwh": f"{place.g_per_kwh:g}",
        "carbon.intensity_kind": place.kind,
        "carbon.intensity_source": place.source,
        "carbon.intensity_year": str(place.year),
    }


def packed(values: Mapping[str, float], said: Mapping[str, str]) -> tuple[dict[str, float], dict[str, str]]:
    """The metrics and tags of a window of inference, which has few of its own and the others in one tag."""
    rest = {
        "metrics": {name: value for name, value in values.items() if name not in _CHARTED},
        "tags": {name: value for name, value in said.items() if name not in _SEARCHED},
    }
    own = {name: value for name, value in said.items() if name in _SEARCHED}
    own[WINDOW] = json.dumps(rest, separators=(",", ":"))
    return {name: value for name, value in values.items() if name in _CHARTED}, own


def unpacked(values: Mapping[str, float], said: Mapping[str, str]) -> tuple[dict[str, float], dict[str, str]]:
    """Our metrics and tags of a run; of a window with those that are in one tag."""
    figures = {name: value for name, value in values.items() if name.startswith(PREFIX)}
    tags = {name: value for name, value in said.items() if name.startswith("carbon.")}
    window = tags.pop(WINDOW, None)
    if window is not None:
        rest = json.loads(window)
        figures |= rest["metrics"]
        tags |= rest["tags"]
    return figures, tags


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

"""A footprint as figures and tags by name; `pages` says which of them MLflow shows.

Units are in the names, because MLflow has no other place for them. Figures are in watt-hours and grams, which
read well for most runs; totals are in kWh and kg too. Stages are sums of exclusive figures by kind: with `run`,
the time of the run between its stages, they add up to the total.
"""

from __future__ import annotations

import math
import re
import socket
import time
from collections.abc import Mapping
from types import MappingProxyType

from carbon_otel._version import __version__
from carbon_otel.batch_job import Job
from carbon_otel.carbon.intensity import Intensity
from carbon_otel.footprint import Footprint
from carbon_otel.mlflow.schema import checked, former, pages
from carbon_otel.provenance import ESTIMATED_REMOTE
from carbon_otel.records import Foresight, RemoteCall
from carbon_otel.text import printable, storable
from carbon_otel.units import J_PER_KWH, J_PER_WH, KILO

LEDGER = "carbon-ledger"  # the experiment for work outside of runs
PREFIX = pages.PREFIX
ENERGY_WH = "carbon/energy_wh"
EMISSIONS_G = "carbon/emissions_g"
MEASURED_WH = "carbon/energy_measured_wh"
UNITS = "carbon/units/"
# In no other figure: of making the hardware; market-based; water.
EMBODIED_G = "carbon/embodied_g"
EMBODIED_LOW_G = "carbon/embodied_low_g"
EMBODIED_HIGH_G = "carbon/embodied_high_g"
# 1 for each process whose embodied carbon is unknown: then the sums of the run are incomplete.
EMBODIED_UNKNOWN = "carbon/embodied_unknown"
MARKET_G = "carbon/market_g"
WATER_L = "carbon/water_l"
# The energy that they count: a process that shares the run, or has resumed it, may have other settings.
MARKET_WH = "carbon/market_wh"
WATER_WH = "carbon/water_wh"
LINEAGE = "carbon.lineage"
REGION = "carbon.region"
SIGNAL = "carbon.intensity_signal"
PUE_SOURCE = "carbon.pue_source"
ENTRY = "carbon.entry_id"
PROCESS = "carbon.process"
MODEL = "carbon.model_id"
SOURCE_RUN = "carbon.source_run_id"
SOURCE_EXPERIMENT = "carbon.source_experiment_id"
HOURLY = "carbon.hourly_wh"
# What was forecast before a run, and the subject by which forecasts are compared.
FORECAST = "carbon.forecast"
FORECAST_SUBJECT = "carbon.forecast_subject"
FORECAST_RAW_WH = "carbon/forecast/raw_p50_wh"
FORECAST_MEASURED_WH = "carbon/forecast/measured_wh"
FORECAST_DELTA = "carbon/forecast/delta"
# This tag of a window has all figures that are neither searched for nor charted, as JSON. A ledger has
# thousands of windows, and a report reads one row for each metric and tag.
WINDOW = f"{pages.HIDDEN}window"
_CHARTED = frozenset({ENERGY_WH, EMISSIONS_G})
_SEARCHED = frozenset({"carbon.status", LINEAGE})

_NESTED = "carbon/nested/"
_STAGE_SLASHES = 3
PERCENTILES = ("p10", "p50", "p90")
_NO_NAME = re.compile(r"[^\w.-]")


def is_curve(name: str) -> bool:
    """Whether a figure is a curve: energy, emissions and power. All others have a point for each of few states."""
    return name in _CHARTED or name.startswith("carbon/power/")


def step(name: str, at: int) -> int:
    """The step of a point of a figure, at the step `at` of its run. Sums are zero at step 0.

    If two points have the same step, the later one counts.
    """
    if is_curve(name):
        return at + 1
    return 1 if pages.is_sum(name) else 0


def device(identifier: str) -> str:
    """A device id as part of a metric's name."""
    return _NO_NAME.sub("_", identifier)


def nested_metric(kind: str, figure: str) -> str:
    """Metric with the contribution of nested runs to `carbon/<kind>/<figure>`; the ledger subtracts it."""
    return f"carbon/nested/{kind}/{figure}"


def nested_sums(values: Mapping[str, float]) -> tuple[float, float]:
    """The watt-hours and grams of the nested runs in the sums of a run."""
    wh, grams = (
        sum(
            value
            for name, value in values.items()
            if name.startswith(_NESTED) and name.endswith(figure) and name.count("/") == _STAGE_SLASHES
        )
        for figure in ("/energy_wh", "/emissions_g")
    )
    return wh, grams


def subtotals(footprint: Footprint) -> dict[str, float]:
    """The sums by stage, device and component, in Wh and g, by the name of their metric after `carbon/`."""
    sums: dict[str, float] = {}
    for kind, (joules, grams) in footprint.stages.items():
        sums[f"{kind}/energy_wh"] = joules / J_PER_WH
        sums[f"{kind}/emissions_g"] = grams
    if footprint.embodied is not None:
        for kind, grams in footprint.embodied.by_kind.items():
            sums[f"{kind}/embodied_g"] = grams
    for identifier, joules in footprint.devices_inclusive.items():
        sums[f"devices/{device(identifier)}_wh"] = joules / J_PER_WH
    for component, joules in footprint.components.items():
        sums[f"components/{component}_wh"] = joules / J_PER_WH
    return sums


def footprint_metrics(
    footprint: Footprint,
    of_nested: Mapping[str, float] = MappingProxyType({}),
    units: Mapping[str, float] = MappingProxyType({}),
) -> dict[str, float]:
    """Cumulative figures of a run. They may be added to those of an earlier segment of the run.

    `of_nested` is the sum of `subtotals()` over the nested runs; `units` are the functional units of the
    stages, by `<kind>/<unit>`.
    """
    values = {
        ENERGY_WH: footprint.energy_j / J_PER_WH,
        "carbon/energy_kwh": footprint.energy_j / J_PER_KWH,
        "carbon/emissions_g": footprint.emissions_g,
        "carbon/emissions_kg": footprint.emissions_g / KILO,
        "carbon/energy_low_wh": footprint.low_j / J_PER_WH,
        "carbon/energy_high_wh": footprint.high_j / J_PER_WH,
        "carbon/emissions_low_g": footprint.low_g,
        "carbon/emissions_high_g": footprint.high_g,
        MEASURED_WH: footprint.energy_j * footprint.measured_fraction / J_PER_WH,
        "carbon/duration_s": footprint.duration_s,
    }
    values |= _beside(footprint)
    values |= {f"{PREFIX}{name}": value for name, value in subtotals(footprint).items()}
    values |= {f"{PREFIX}nested/{name}": value for name, value in of_nested.items()}
    values |= {f"{UNITS}{unit}": amount for unit, amount in units.items()}
    return {name: value for name, value in values.items() if math.isfinite(value)}


def _beside(footprint: Footprint) -> dict[str, float]:
    """What stands beside the emissions, and is in none of the other sums."""
    made = footprint.embodied
    values = (
        {EMBODIED_UNKNOWN: 1.0}
        if made is None
        else {EMBODIED_G: made.g, EMBODIED_LOW_G: made.low_g, EMBODIED_HIGH_G: made.high_g}
    )
    if footprint.market is not None:
        values[MARKET_G], values[MARKET_WH] = footprint.market.g, footprint.energy_j / J_PER_WH
    if footprint.water is not None:
        values[WATER_L], values[WATER_WH] = footprint.water.litres, footprint.energy_j / J_PER_WH
        values["carbon/water_low_l"], values["carbon/water_high_l"] = (
            footprint.water.low,
            footprint.water.high,
        )
    return values


def beside_tags(footprint: Footprint) -> dict[str, str]:
    """The provenance of what stands beside the emissions."""
    tags = {"carbon.embodied_unknown": ", ".join(footprint.embodied_unknown)}
    if footprint.embodied is not None:
        tags["carbon.embodied_source"] = footprint.embodied.source
        tags["carbon.lifetime_years"] = f"{footprint.embodied.lifetime_years:g}"
    if footprint.market is not None:
        intensity = footprint.market.intensity
        tags["carbon.market_intensity_g_per_kwh"] = f"{intensity.g_per_kwh:g}"
        tags["carbon.market_intensity_source"] = printable(intensity.source)
    if footprint.water is not None:
        tags["carbon.water_source"] = footprint.water.source
    return tags


def remote_metrics(call: RemoteCall) -> dict[str, float]:
    """What one call of a remote model adds to a run: an estimate, which is in no other figure of the run."""
    figures = call.figures
    if figures is None:
        return {"carbon/remote_calls_unknown": 1.0}
    return {
        "carbon/remote_calls": 1.0,
        "carbon/remote_estimate_wh": figures.energy_j / J_PER_WH,
        "carbon/remote_estimate_low_wh": figures.low_j / J_PER_WH,
        "carbon/remote_estimate_high_wh": figures.high_j / J_PER_WH,
        "carbon/remote_estimate_g": figures.emissions_g,
        "carbon/remote_estimate_low_g": figures.low_g,
        "carbon/remote_estimate_high_g": figures.high_g,
    }


def remote_tags(call: RemoteCall) -> dict[str, str]:
    """The provenance of the estimates of a run, by its last call that has one."""
    if call.figures is None:
        return {}
    return {
        "carbon.remote_method": ESTIMATED_REMOTE,
        "carbon.remote_source": storable(call.figures.source)[: checked.LONGEST_TAG],
    }


def foresight_metrics(foresight: Foresight) -> dict[str, float]:
    """A forecast of a run, under `carbon/forecast/`; one that was made in the run, under `carbon/reforecast/`.

    `delta` is predicted / measured - 1. These are no sums: two parts of a run do not add theirs.
    """
    group = "reforecast" if foresight.in_run else "forecast"
    values: dict[str, float | None] = {
        f"energy_{name}_wh": joules / J_PER_WH
        for name, joules in zip(PERCENTILES, foresight.expected_j, strict=True)
    }
    values |= {f"emissions_{name}_g": g for name, g in zip(PERCENTILES, foresight.expected_g, strict=True)}
    if foresight.expected_s is not None:
        values["duration_p50_s"] = foresight.expected_s[1]
    if foresight.in_run:
        values |= {"done_percent": 100 * foresight.done, "left_s": foresight.left_s}
    else:
        values["raw_p50_wh"] = foresight.raw_j / J_PER_WH
    if foresight.measured_j is not None:
        values["measured_wh"] = foresight.measured_j / J_PER_WH
    values["delta"] = foresight.delta
    return {f"{PREFIX}{group}/{name}": v for name, v in values.items() if v is not None and math.isfinite(v)}


def foresight_tags(foresight: Foresight) -> dict[str, str]:
    """What was forecast before the run."""
    if foresight.in_run:
        return {}
    values = {FORECAST: foresight.title, FORECAST_SUBJECT: foresight.subject}
    return {name: storable(value)[: checked.LONGEST_TAG] for name, value in values.items() if value}


def provenance_tags(
    footprint: Footprint,
    *,
    status: str,
    hardware: str,
    attribution: str,
    trace_id: str | None,
    trace_url: str | None,
    lineage: str | None,
    process: str,
    job: Job | None = None,
) -> dict[str, str]:
    """The provenance of the figures. `carbon.measured_fraction` is added when the totals are known.

    `trace_url` is an address with the placeholder `{trace_id}`; `process` identifies the process,
    which belongs to `job`, if any.
    """
    grid = footprint.intensity
    values = {
        "carbon.status": status,
        "carbon.updated_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "carbon.method": footprint.method,
        "carbon.pue": f"{footprint.pue:g}",
        PUE_SOURCE: footprint.pue_source,
        REGION: footprint.region,
        "carbon.hardware": hardware,
        "carbon.attribution": attribution,
        "carbon.version": __version__,
        "carbon.missing": ", ".join(footprint.missing),
        "carbon.flags": ", ".join(footprint.flags),
        "carbon.trace_id": trace_id or "",
        "carbon.trace_url": printable(trace_url.replace("{trace_id}", trace_id))
        if trace_url and trace_id
        else "",
        "carbon.host": socket.gethostname(),
        PROCESS: process,
        LINEAGE: lineage or "",
    }
    if job is not None:
        values |= {"carbon.job_id": job.id, "carbon.job_step": job.step, "carbon.job_array": job.array}
    if grid is not None:
        values |= intensity_tags(grid)
    values |= beside_tags(footprint)
    values |= {f"carbon.share.{rule}": f"{share:.4g}" for rule, share in footprint.shares.items()}
    return {name: storable(value)[: checked.LONGEST_TAG] for name, value in values.items() if value}


def intensity_tags(grid: Intensity) -> dict[str, str]:
    """The grid intensity behind the emissions."""
    return {
        "carbon.zone": grid.zone,
        "carbon.intensity_g_per_kwh": f"{grid.g_per_kwh:g}",
        "carbon.intensity_kind": grid.kind,
        SIGNAL: str(grid.signal),
        "carbon.intensity_source": grid.source,
        "carbon.intensity_year": str(grid.year),
    }


def pack(values: Mapping[str, float], tags: Mapping[str, str]) -> tuple[dict[str, float], dict[str, str]]:
    """The metrics and tags of a window: all figures as JSON in hidden tags, and a few separate ones.

    The separate metrics are written for few states of a window, so the tag has their values too.
    """
    content = {
        "metrics": dict(values),
        "tags": {name: value for name, value in tags.items() if name not in _SEARCHED},
    }
    own = {name: value for name, value in tags.items() if name in _SEARCHED}
    own |= checked.tags_of(WINDOW, content)
    return {name: value for name, value in values.items() if name in _CHARTED}, own


def unpack(values: Mapping[str, float], tags: Mapping[str, str]) -> tuple[dict[str, float], dict[str, str]]:
    """The figures and tags of carbon_otel in a run or a window, without NaN. Raises Unreadable.

    `values` are the metrics of the run.
    """
    shown = {figure: value for name, value in values.items() if (figure := pages.figure(name)) is not None}
    figures = checked.numbers(shown)
    if figures is None:
        raise checked.Unreadable("a metric of its energy is not a number")
    own = {name: tag for name, tag in tags.items() if name.startswith("carbon.")}
    own = {name: tag for name, tag in own.items() if not _is_bookkeeping(name)}
    name = WINDOW if WINDOW in tags else former.WINDOW
    window = checked.pieces_of(tags, name).get("")
    if window is None:
        return figures, own
    content = checked.object_in(window) or {}
    packed_figures, packed_tags = checked.numbers(content.get("metrics")), content.get("tags")
    if packed_figures is None or not isinstance(packed_tags, dict):
        raise checked.Unreadable(f"{name} is cut or was changed")
    if not all(map(checked.is_metric, packed_figures)):
        raise checked.Unreadable(f"{name} has a name that no metric can have")
    if not all(isinstance(tag, str) for tag in packed_tags.values()):
        raise checked.Unreadable(f"{name} has a tag that is not text")
    return figures | packed_figures, own | packed_tags


def _is_bookkeeping(tag: str) -> bool:
    return tag.startswith(former.PART) or f"{tag}.".startswith(f"{former.WINDOW}.")


def lower_bound(tags: Mapping[str, str]) -> str | None:
    """The reason why figures with these tags may be too low; None if they are complete.

    Either the run has not ended in order, or a component is missing.
    """
    if tags.get("carbon.status") != "final":
        return "has not ended in order"
    missing = tags.get("carbon.missing")
    return f"lacks {missing}" if missing else None


def pue(tags: Mapping[str, str]) -> float:
    """Power usage effectiveness of the site; 1 without the tag. Raises Unreadable."""
    return checked.pue_in(tags.get("carbon.pue", "1"))


def measured_fraction(values: Mapping[str, float]) -> float:
    """Share of the energy that sensors measured, from the sums of a run; 0 for no energy."""
    total = values.get(ENERGY_WH, 0.0)
    return min(1.0, max(0.0, values.get(MEASURED_WH, 0.0)) / total) if total > 0 else 0.0


def own_of_kind(values: Mapping[str, float], kind: str, figure: str) -> float:
    """A figure of a kind of stage in the sums of a run, without its nested runs."""
    return max(0.0, values.get(f"carbon/{kind}/{figure}", 0.0) - values.get(nested_metric(kind, figure), 0.0))


def embodied_is_known(values: Mapping[str, float]) -> bool:
    """Whether the sums of a run have the embodied carbon of all its processes; older runs have none."""
    return EMBODIED_G in values and not values.get(EMBODIED_UNKNOWN)


def covers_all(values: Mapping[str, float], counted: str) -> bool:
    """Whether the energy of `MARKET_WH` or `WATER_WH` is that of the whole run."""
    return values.get(counted, 0.0) >= values.get(ENERGY_WH, 0.0) * (1 - 1e-6) and counted in values


def rates_per_1k(values: Mapping[str, float]) -> dict[str, float]:
    """Energy and emissions per 1,000 functional units of each kind of stage, from the sums of a run.

    Joules are shown: a thousand units take from millijoules to megajoules. SCI, ((E x I) + M) per R, is among them
    if the embodied carbon is known.
    """
    rates = {}
    for name, amount in values.items():
        kind, slash, unit = name.removeprefix(UNITS).rpartition("/")
        if name.startswith(UNITS) and slash and amount > 0:
            grams = own_of_kind(values, kind, "emissions_g")
            wh = own_of_kind(values, kind, "energy_wh") / amount * KILO
            rates[f"carbon/{kind}/j_per_1k_{unit}"] = wh * J_PER_WH
            rates[f"carbon/{kind}/wh_per_1k_{unit}"] = wh
            rates[f"carbon/{kind}/g_per_1k_{unit}"] = grams / amount * KILO
            if embodied_is_known(values):
                sci = grams + own_of_kind(values, kind, "embodied_g")
                rates[f"carbon/{kind}/sci_g_per_1k_{unit}"] = sci / amount * KILO
    return rates

"""The figures in a run's description, for who reads its page; never over what the user has written there."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

from carbon_otel.mlflow.delivery.spool import Batch
from carbon_otel.mlflow.schema import names
from carbon_otel.units import emissions, energy

NOTE: Final = "mlflow.note.content"
_OURS: Final = "**Energy and carbon** "
_SHOWN: Final = 20
_STAGE = re.compile(r"carbon/([^/]+)/energy_wh")


def describe(
    store: Any, batch: Batch, data: Any, values: Mapping[str, float], tags: Mapping[str, str]
) -> None:
    """After a run's last batch: its description, and the user's metric per gram. Raises what the store does.

    `data` is what MLflow has of the run, `values` and `tags` what we have just written.
    """
    from mlflow.entities import Metric, RunTag

    points = []
    achieved = data.metrics.get(batch.per_gram)
    grams = values.get("carbon/emissions_g", 0.0)
    if achieved is not None and math.isfinite(achieved) and grams > 0:
        points.append(Metric(f"carbon/{batch.per_gram}_per_g", achieved / grams, batch.timestamp_ms, 0))
    notes = []
    if data.tags.get(NOTE, _OURS).startswith(_OURS) and values:
        notes.append(RunTag(NOTE, markdown(values, tags)))
    if points or notes:
        store.log_batch(batch.run_id, metrics=points, params=[], tags=notes)


def markdown(values: Mapping[str, float], tags: Mapping[str, str]) -> str:
    """A table of a run's figures, and what they rest on."""

    def figure(name: str) -> float:
        return values.get(f"carbon/{name}", math.nan)

    total_wh, total_g = figure("energy_wh"), figure("emissions_g")
    share = names.measured_fraction(values)
    lines = [
        # The page shows the first lines of it before one asks for more.
        f"{_OURS}{energy(total_wh)}, {emissions(total_g)} CO2e; {share:.0%} measured by a sensor",
        "",
        "| | Energy | CO2e |",
        "|---|---|---|",
        f"| **total** | **{energy(total_wh)}** | **{emissions(total_g)}** |",
        f"| band (k=2) | {energy(figure('energy_low_wh'))} to {energy(figure('energy_high_wh'))} "
        f"| {emissions(figure('emissions_low_g'))} to {emissions(figure('emissions_high_g'))} |",
    ]
    stages = sorted(
        ((wh, match[1]) for name, wh in values.items() if (match := _STAGE.fullmatch(name))), reverse=True
    )
    for wh, kind in stages[:_SHOWN]:
        lines.append(f"| {kind} | {energy(wh)} | {emissions(figure(f'{kind}/emissions_g'))} |")
    if rest := stages[_SHOWN:]:
        wh, grams = sum(wh for wh, _ in rest), sum(figure(f"{kind}/emissions_g") for _, kind in rest)
        lines.append(f"| {len(rest)} other kinds of stage | {energy(wh)} | {emissions(grams)} |")
    place = f"{tags.get('carbon.zone', 'world average')}, {tags.get('carbon.intensity_g_per_kwh', '?')} g/kWh"
    source = " ".join(tags.get(f"carbon.intensity_{part}", "") for part in ("kind", "source", "year"))
    lines += [
        "",
        f"Method: {tags.get('carbon.method', 'unknown')}. Grid: {place} ({source}), "
        f"PUE {tags.get('carbon.pue', '1')}. carbon_otel {tags.get('carbon.version', '')}.",
    ]
    if tags.get("carbon.missing"):
        lines.append(f"Not in the figures: {tags['carbon.missing']}.")
    if tags.get("carbon.trace_url"):
        lines.append(f"[Its trace]({tags['carbon.trace_url']})")
    return "\n".join(lines)

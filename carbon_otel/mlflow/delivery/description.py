"""The description of a run on its MLflow page. A text that the user wrote is kept."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

from carbon_otel.mlflow.delivery.batch import Batch
from carbon_otel.mlflow.schema import names, rank_figures
from carbon_otel.quantities import emissions, watt_hours
from carbon_otel.text import storable

NOTE: Final = "mlflow.note.content"
_FIRST_WORDS: Final = "**Energy and carbon** "
_STAGES_SHOWN: Final = 20
_STAGE = re.compile(r"carbon/([^/]+)/energy_wh")


def described(
    batch: Batch, data: Any, values: Mapping[str, float], tags: Mapping[str, str]
) -> tuple[list[Any], dict[str, str]]:
    """The additions to a run's last batch: points of the user's metric per gram, and the description as a tag.

    `data` is the run's data in MLflow; `values` and `tags` are the figures that carbon_otel writes to the run.
    """
    from mlflow.entities import Metric

    points = []
    achieved = data.metrics.get(batch.efficiency_metric)
    grams = values.get("carbon/emissions_g", 0.0)
    if achieved is not None and math.isfinite(achieved) and grams > 0:
        name = f"carbon/{batch.efficiency_metric}_per_g"
        points.append(Metric(name, achieved / grams, batch.timestamp_ms, 0))
    is_ours = data.tags.get(NOTE, _FIRST_WORDS).startswith(_FIRST_WORDS)
    return points, {NOTE: storable(markdown(values, tags))} if is_ours and values else {}


def markdown(values: Mapping[str, float], tags: Mapping[str, str]) -> str:
    """A table of a run's figures, with their method, grid and version."""

    def figure(name: str) -> float:
        return values.get(f"carbon/{name}", math.nan)

    total_wh, total_g = figure("energy_wh"), figure("emissions_g")
    share = names.measured_fraction(values)
    lines = [
        # The page shows only the first lines until the user expands it.
        f"{_FIRST_WORDS}{watt_hours(total_wh)}, {emissions(total_g)} CO2e; {share:.0%} measured by a sensor",
        "",
        "| | Energy | CO2e |",
        "|---|---|---|",
        f"| **total** | **{watt_hours(total_wh)}** | **{emissions(total_g)}** |",
        f"| band (k=2) | {watt_hours(figure('energy_low_wh'))} to {watt_hours(figure('energy_high_wh'))} "
        f"| {emissions(figure('emissions_low_g'))} to {emissions(figure('emissions_high_g'))} |",
    ]
    stages = sorted(
        ((wh, match[1]) for name, wh in values.items() if (match := _STAGE.fullmatch(name))), reverse=True
    )
    for wh, kind in stages[:_STAGES_SHOWN]:
        lines.append(f"| {kind} | {watt_hours(wh)} | {emissions(figure(f'{kind}/emissions_g'))} |")
    if others := stages[_STAGES_SHOWN:]:
        wh, grams = sum(wh for wh, _ in others), sum(figure(f"{kind}/emissions_g") for _, kind in others)
        lines.append(f"| {len(others)} other kinds of stage | {watt_hours(wh)} | {emissions(grams)} |")
    lines += _beside(values, tags)
    grid = f"{tags.get('carbon.zone', 'world average')}, {tags.get('carbon.intensity_g_per_kwh', '?')} g/kWh"
    source = " ".join(tags.get(f"carbon.intensity_{part}", "") for part in ("kind", "source", "year"))
    lines += [
        "",
        f"Method: {tags.get('carbon.method', 'unknown')}. Grid: {grid} ({source}), "
        f"PUE {tags.get('carbon.pue', '1')}. carbon_otel {tags.get('carbon.version', '')}.",
    ]
    if tags.get(rank_figures.TAG):
        lines += ["", f"Ranks: {tags[rank_figures.TAG]}."]
    if tags.get("carbon.missing"):
        lines.append(f"Not in the figures: {tags['carbon.missing']}.")
    if tags.get("carbon.trace_url"):
        lines.append(f"[Trace]({tags['carbon.trace_url']})")
    return "\n".join(lines)


def _beside(values: Mapping[str, float], tags: Mapping[str, str]) -> list[str]:
    """Rows of what stands beside the total and is not in it."""
    lines = []
    if names.embodied_is_known(values):
        low, high = values.get(names.EMBODIED_LOW_G, 0.0), values.get(names.EMBODIED_HIGH_G, 0.0)
        lines.append(
            f"| beside it: embodied, {tags.get('carbon.lifetime_years', '?')} years in use | "
            f"| {emissions(values[names.EMBODIED_G])} ({emissions(low)} to {emissions(high)}) |"
        )
    if names.covers_all(values, names.MARKET_WH):
        lines.append(f"| beside it: market-based | | {emissions(values[names.MARKET_G])} |")
    return lines

"""A stage and its footprint as span attributes."""

from __future__ import annotations

from typing import Any

from carbon_otel.footprint import Footprint
from carbon_otel.otel import conventions as c
from carbon_otel.stages.engine import OpenStage


def stage_attributes(stage: OpenStage) -> dict[str, Any]:
    """What is known of it when it begins."""
    return {**stage.attributes, c.STAGE_KIND: stage.kind, c.STAGE_NAME: stage.name}


def footprint_attributes(footprint: Footprint) -> dict[str, Any]:
    """What it has used."""
    attributes: dict[str, Any] = {
        c.ENERGY_TOTAL_J: footprint.energy_j,
        c.ENERGY_EXCLUSIVE_J: footprint.exclusive_j,
        c.ENERGY_LOW_J: footprint.low_j,
        c.ENERGY_HIGH_J: footprint.high_j,
        c.EMISSIONS_G: footprint.emissions_g,
        c.PUE: footprint.pue,
        c.METHOD: footprint.method,
        c.MEASURED_FRACTION: footprint.measured_fraction,
    }
    for component, joules in footprint.components.items():
        attributes[c.ENERGY_COMPONENT_J.format(component)] = joules
    if footprint.intensity is not None:
        attributes[c.INTENSITY_G_PER_KWH] = footprint.intensity.g_per_kwh
        attributes[c.INTENSITY_SOURCE] = footprint.intensity.source
    for unit, amount in footprint.units.items():
        attributes[c.UNITS.format(unit)] = amount
    for unit, (joules, grams) in footprint.per_unit.items():
        # Tokens are counted by the thousand, as the field does.
        by, times = ("1k_tokens", 1000) if unit == "tokens" else (unit.removesuffix("s"), 1)
        attributes[c.ENERGY_J_PER.format(by)] = joules * times
        attributes[c.EMISSIONS_G_PER.format(by)] = grams * times
    for rule, share in footprint.shares.items():
        attributes[c.SHARE.format(rule)] = share
    if footprint.gap_s:
        attributes[c.GAP_S] = footprint.gap_s
    if footprint.flags:
        attributes[c.FLAGS] = footprint.flags
    if footprint.missing:
        attributes[c.MISSING] = footprint.missing
    return attributes

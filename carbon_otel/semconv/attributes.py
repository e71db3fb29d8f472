"""A stage and its footprint as span attributes."""

from __future__ import annotations

import functools
from typing import Any, Final

from carbon_otel.footprint import Footprint
from carbon_otel.ranks import Rank
from carbon_otel.records import Foresight, StageInfo
from carbon_otel.semconv import names as semconv

_PERCENTILES: Final = ("p10", "p50", "p90")


def stage_attributes(stage: StageInfo) -> dict[str, Any]:
    """The attributes of a stage that are known at its start."""
    return {**stage.attributes, semconv.STAGE_KIND: stage.kind, semconv.STAGE_NAME: stage.name}


def rank_attributes(rank: Rank) -> dict[str, int]:
    """The rank of a process in its training."""
    attributes = {semconv.RANK: rank.rank, semconv.WORLD_SIZE: rank.world_size}
    if rank.local_rank is not None:
        attributes[semconv.LOCAL_RANK] = rank.local_rank
    return attributes


def footprint_attributes(footprint: Footprint) -> dict[str, Any]:
    """The attributes of the footprint of a stage."""
    attributes: dict[str, Any] = {
        semconv.ENERGY_TOTAL_J: footprint.energy_j,
        semconv.ENERGY_EXCLUSIVE_J: footprint.exclusive_j,
        semconv.ENERGY_LOW_J: footprint.low_j,
        semconv.ENERGY_HIGH_J: footprint.high_j,
        semconv.EMISSIONS_G: footprint.emissions_g,
        semconv.PUE: footprint.pue,
        semconv.METHOD: footprint.method,
        semconv.MEASURED_FRACTION: footprint.measured_fraction,
    }
    for component, joules in footprint.components.items():
        attributes[_named(semconv.ENERGY_COMPONENT_J, component)] = joules
    if footprint.intensity is not None:
        attributes[semconv.INTENSITY_G_PER_KWH] = footprint.intensity.g_per_kwh
        attributes[semconv.INTENSITY_SOURCE] = footprint.intensity.source
        attributes[semconv.INTENSITY_SIGNAL] = _text(footprint.intensity.signal)
        attributes[semconv.INTENSITY_YEAR] = footprint.intensity.year
    attributes |= _beside(footprint)
    for unit, amount in footprint.units.items():
        attributes[semconv.UNITS.format(unit)] = amount
    for unit, (joules, grams) in footprint.per_unit.items():
        by, times = _per(unit)
        attributes[semconv.ENERGY_J_PER.format(by)] = joules * times
        attributes[semconv.EMISSIONS_G_PER.format(by)] = grams * times
    for unit, grams in footprint.sci.items():
        by, times = _per(unit)
        attributes[semconv.SCI_G_PER.format(by)] = grams * times
    for rule, share in footprint.shares.items():
        attributes[_named(semconv.SHARE, rule)] = share
    if footprint.gap_s:
        attributes[semconv.GAP_S] = footprint.gap_s
    if footprint.flags:
        attributes[semconv.FLAGS] = footprint.flags
    if footprint.missing:
        attributes[semconv.MISSING] = footprint.missing
    return attributes


def _per(unit: str) -> tuple[str, int]:
    """The unit of a rate, and how many of them: figures of language models are usually per thousand tokens."""
    return ("1k_tokens", 1000) if unit == "tokens" else (unit.removesuffix("s"), 1)


def _beside(footprint: Footprint) -> dict[str, Any]:
    """What stands beside the emissions, as far as it is known."""
    attributes: dict[str, Any] = {}
    if footprint.embodied is not None:
        made = footprint.embodied
        attributes = {
            semconv.EMBODIED_G: made.g,
            semconv.EMBODIED_LOW_G: made.low_g,
            semconv.EMBODIED_HIGH_G: made.high_g,
        }
    if footprint.market is not None:
        market = footprint.market
        attributes[semconv.MARKET_G] = market.g
        attributes[semconv.MARKET_G_PER_KWH] = market.intensity.g_per_kwh
        attributes[semconv.MARKET_SOURCE] = market.intensity.source
    if footprint.water is not None:
        water = footprint.water
        attributes[semconv.WATER_L] = water.litres
        attributes[semconv.WATER_LOW_L], attributes[semconv.WATER_HIGH_L] = water.low, water.high
    return attributes


def foresight_attributes(foresight: Foresight) -> dict[str, Any]:
    """The attributes of a forecast of a stage; one that was made in the stage has names of its own."""
    if foresight.in_run:
        joules, grams = semconv.REFORECAST_J, semconv.REFORECAST_G
        measured, delta = semconv.REFORECAST_MEASURED_J, semconv.REFORECAST_DELTA
    else:
        joules, grams = semconv.FORECAST_J, semconv.FORECAST_G
        measured, delta = semconv.FORECAST_MEASURED_J, semconv.FORECAST_DELTA
    attributes: dict[str, Any] = {}
    for name, j, g in zip(_PERCENTILES, foresight.expected_j, foresight.expected_g, strict=True):
        attributes[_named(joules, name)] = j
        attributes[_named(grams, name)] = g
    if foresight.in_run:
        attributes[semconv.REFORECAST_DONE] = foresight.done
        if foresight.left_s is not None:
            attributes[semconv.REFORECAST_LEFT_S] = foresight.left_s
    else:
        attributes[semconv.FORECAST_TITLE] = foresight.title
    if foresight.measured_j is not None:
        attributes[measured] = foresight.measured_j
    if foresight.delta is not None:
        attributes[delta] = foresight.delta
    return attributes


@functools.cache
def _text(signal: tuple[str, ...]) -> str:
    return str(signal)


@functools.cache
def _named(template: str, part: str) -> str:
    return template.format(part)

"""The sum of the footprints of one process, which was measured more than once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

from carbon_otel.footprint import Cost, Footprint
from carbon_otel.provenance import Method, combined


def added(first: Footprint, second: Footprint) -> Footprint:
    """Two measurements, one after the other, as one.

    The same sensors made both, so their deviations add up. Where the two are priced by different grids, the sum
    has no `intensity`.
    """
    if math.isnan(first.energy_j) or math.isnan(second.energy_j):
        return first if math.isnan(second.energy_j) else second
    energy_j, duration_s = first.energy_j + second.energy_j, first.duration_s + second.duration_s
    methods = cast("set[Method]", {*first.method.split("+"), *second.method.split("+")})
    kinds = dict.fromkeys([*first.stages, *second.stages])
    none = Cost(0.0, 0.0)
    costs = {kind: (first.stages.get(kind, none), second.stages.get(kind, none)) for kind in kinds}
    return Footprint(
        energy_j=energy_j,
        exclusive_j=first.exclusive_j + second.exclusive_j,
        emissions_g=first.emissions_g + second.emissions_g,
        exclusive_g=first.exclusive_g + second.exclusive_g,
        low_j=first.low_j + second.low_j,
        high_j=first.high_j + second.high_j,
        low_g=first.low_g + second.low_g,
        high_g=first.high_g + second.high_g,
        duration_s=duration_s,
        measured_fraction=_mean(
            first.measured_fraction, first.energy_j, second.measured_fraction, second.energy_j
        ),
        method=combined(methods),
        devices=_sums(first.devices, second.devices),
        devices_inclusive=_sums(first.devices_inclusive, second.devices_inclusive),
        components=_sums(first.components, second.components),
        intensity=first.intensity if first.intensity == second.intensity else None,
        pue=second.pue,
        units=_sums(first.units, second.units),
        gap_s=first.gap_s + second.gap_s,
        flags=tuple(sorted({*first.flags, *second.flags})),
        missing=tuple(sorted({*first.missing, *second.missing})),
        stages={
            kind: Cost(one.energy_j + two.energy_j, one.emissions_g + two.emissions_g)
            for kind, (one, two) in costs.items()
        },
        shares={
            rule: _mean(first.shares.get(rule, share), first.duration_s, share, second.duration_s)
            for rule, share in second.shares.items()
        },
    )


def _sums(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    return {key: first.get(key, 0.0) + second.get(key, 0.0) for key in [*dict.fromkeys([*first, *second])]}


def _mean(first: float, first_weight: float, second: float, second_weight: float) -> float:
    weight = first_weight + second_weight
    return (first * first_weight + second * second_weight) / weight if weight > 0 else second

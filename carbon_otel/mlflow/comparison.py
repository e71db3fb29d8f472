"""Whether one run cost less than another, as far as their figures can tell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from carbon_otel.mlflow import naming

# What must be alike for two figures to be of the same kind, and why.
_ALIKE: Final = {
    "carbon.method": "the tiers differ, and so do their errors",
    "carbon.attribution": "different parts of the host are charged",
    "carbon.hardware": "other hardware draws other power",
    "carbon.missing": "a component is not in one of the figures",
    "carbon.zone": "emissions differ by the grid; compare the energy",
    "carbon.intensity_g_per_kwh": "emissions differ by the grid's factor; compare the energy",
    "carbon.pue": "emissions differ by the site; compare the energy",
}


class NotMeasured(ValueError):
    """The run has no figures of carbon_otel."""


@dataclass(frozen=True, slots=True)
class RunCost:
    """What a run's metrics and tags say. Energy and its band in Wh; NaN where a figure was not logged."""

    run_id: str
    name: str
    energy_wh: float
    low_wh: float
    high_wh: float
    emissions_g: float
    duration_s: float
    measured_fraction: float
    tags: Mapping[str, str]

    @classmethod
    def of(cls, run_id: str, name: str, metrics: Mapping[str, float], tags: Mapping[str, str]) -> RunCost:
        """Raises NotMeasured."""
        if naming.ENERGY_WH not in metrics:
            raise NotMeasured(
                f"run {name} ({run_id}) has no metric {naming.ENERGY_WH}; call carbon_otel.instrument() before it"
            )

        def known(metric: str) -> float:
            return metrics.get(metric, math.nan)

        return cls(
            run_id=run_id,
            name=name,
            energy_wh=metrics[naming.ENERGY_WH],
            low_wh=known("carbon/energy_low_wh"),
            high_wh=known("carbon/energy_high_wh"),
            emissions_g=known("carbon/emissions_g"),
            duration_s=known("carbon/duration_s"),
            measured_fraction=naming.measured_fraction(metrics),
            tags={name: value for name, value in tags.items() if name.startswith("carbon.")},
        )


def differences(runs: Sequence[RunCost]) -> list[str]:
    """In which ways the runs were not measured alike, one line each."""
    found = []
    for tag, why in _ALIKE.items():
        values = {run.tags.get(tag, "none") for run in runs}
        if len(values) > 1:
            said = "; ".join(f"{run.name}: {run.tags.get(tag, 'none')}" for run in runs)
            found.append(f"{tag.removeprefix('carbon.')} ({why}): {said}")
    killed = [run.name for run in runs if run.tags.get("carbon.status") != "final"]
    return found + [f"{name} has not ended in order; its figures are lower bounds" for name in killed]


def verdict(first: RunCost, other: RunCost) -> str:
    """Whether `other` used less energy than `first`, only where their bands say so.

    The bands are taken as independent, the cautious rule: errors that two runs on the same device share, such as
    a sensor's own, would cancel in part, but nobody has measured how far.
    """
    change = other.energy_wh / first.energy_wh - 1 if first.energy_wh else math.nan
    by = f"{abs(change):.1%} {'less' if change < 0 else 'more'} energy than {first.name}"
    if any(map(math.isnan, (first.low_wh, first.high_wh, other.low_wh, other.high_wh))):
        return f"{other.name}: {by}; without bands nobody can tell whether that is a difference"
    if other.high_wh < first.low_wh or other.low_wh > first.high_wh:
        return f"{other.name} used {by}, beyond both bands"
    return f"{other.name}: {by}, but the bands overlap: they cannot be told apart"

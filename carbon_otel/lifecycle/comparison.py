"""Comparison of the costs of runs, within the limits of their bands."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from carbon_otel.mlflow.schema import contributions, names
from carbon_otel.mlflow.schema.checked import amount

# Tags that must be equal if figures are to be comparable, each with the reason.
_ALIKE: Final = {
    "carbon.method": "the tiers have different errors",
    "carbon.attribution": "different parts of the host are charged",
    "carbon.hardware": "different hardware draws different power",
    "carbon.missing": "a component is not in one of the figures",
    "carbon.zone": "emissions differ by the grid; compare the energy",
    "carbon.intensity_g_per_kwh": "emissions differ by the grid's factor; compare the energy",
    "carbon.intensity_source": "emissions differ by the table; compare the energy",
    "carbon.intensity_signal": "emissions count different things; compare the energy",
    "carbon.intensity_year": "emissions differ by the table's year; compare the energy",
    "carbon.pue": "emissions differ by the site; compare the energy",
}


class NotMeasured(ValueError):
    """The run has no figures."""


@dataclass(frozen=True, slots=True)
class RunCost:
    """The cost of a run with its nested runs: energy in Wh, emissions in g, bands (k=2).

    A figure that was not logged is NaN. `parent_run_id` is the enclosing run, whose figures include this one.
    """

    run_id: str
    name: str
    energy_wh: float
    low_wh: float
    high_wh: float
    emissions_g: float
    low_g: float
    high_g: float
    duration_s: float
    measured_fraction: float
    tags: Mapping[str, str]
    parent_run_id: str | None = None

    @classmethod
    def of(cls, run_id: str, name: str, metrics: Mapping[str, float], tags: Mapping[str, str]) -> RunCost:
        """The cost in the metrics and tags of a run. Raises NotMeasured and Unreadable."""
        figures, own_tags = contributions.figures_and_tags(metrics, tags)
        if names.ENERGY_WH not in figures:
            raise NotMeasured(f"run {name} ({run_id}) has no metric {names.ENERGY_WH}; {_advice(tags)}")

        def known(metric: str) -> float:
            return amount(figures, metric) if metric in figures else math.nan

        # A bar may be older than its curve where a run was killed, or may have been changed.
        energy_wh, emissions_g = known(names.ENERGY_WH), known("carbon/emissions_g")
        return cls(
            run_id=run_id,
            name=name,
            energy_wh=energy_wh,
            low_wh=min(known("carbon/energy_low_wh"), energy_wh),
            high_wh=max(known("carbon/energy_high_wh"), energy_wh),
            emissions_g=emissions_g,
            low_g=min(known("carbon/emissions_low_g"), emissions_g),
            high_g=max(known("carbon/emissions_high_g"), emissions_g),
            duration_s=known("carbon/duration_s"),
            measured_fraction=names.measured_fraction(figures) if names.MEASURED_WH in figures else math.nan,
            tags=own_tags,
            parent_run_id=tags.get("mlflow.parentRunId"),
        )

    @property
    def lower_bound(self) -> str | None:
        """The reason why the run may have used more than its band; None if its figures are complete."""
        return names.lower_bound(self.tags)


def differences(runs: Sequence[RunCost]) -> list[str]:
    """The differences in how the runs were measured, one line each."""
    lines = []
    for tag, why in _ALIKE.items():
        values = {run.run_id: run.tags.get(tag, "none") for run in runs}
        if len(set(values.values())) > 1:
            each = "; ".join(f"{run.name}: {values[run.run_id]}" for run in runs)
            lines.append(f"{tag.removeprefix('carbon.')} ({why}): {each}")
    names_of = {run.run_id: run.name for run in runs}
    for run in runs:
        if run.lower_bound:
            lines.append(f"{run.name} {run.lower_bound}; its figures are lower bounds")
        if run.parent_run_id in names_of:
            lines.append(f"{run.name} is nested in {names_of[run.parent_run_id]}, whose figures include it")
        if run.tags.get("carbon.segments", "1") != "1":
            lines.append(f"{run.name} was resumed; its tags are those of its last segment")
    return lines


def verdict(first: RunCost, other: RunCost) -> str:
    """Whether `other` used less energy than `first`: only if their bands do not overlap.

    The bands are treated as independent, which is cautious: errors that two runs on one device share, such as
    those of its sensor, cancel in part, but this effect has not been measured. A lower bound has no upper end.
    Energy is compared, not emissions: on one grid the intensity multiplies both and cancels; on two grids the
    emissions would compare the grids.
    """
    by = f"{_change(first.energy_wh, other.energy_wh)} energy than {first.name}"
    if any(map(math.isnan, (first.low_wh, first.high_wh, other.low_wh, other.high_wh))):
        return f"{other.name}: {by}; without bands it is unknown whether they differ"
    for less, more in ((first, other), (other, first)):
        if less.high_wh < more.low_wh:
            if less.lower_bound:
                return f"{other.name}: {by}, but {less.name} {less.lower_bound}: they are not distinguishable"
            return f"{other.name} used {by}, beyond both bands"
    return f"{other.name}: {by}, but the bands overlap: they are not distinguishable"


def pareto(
    runs: Sequence[RunCost], quality: Mapping[str, float], *, lower_is_better: bool = False
) -> frozenset[str]:
    """Ids of the runs on the Pareto front: no other run is as good in quality and emissions, and better in one.

    `quality` is the metric by run id. A run without it is left out, and so is a run whose emissions are unknown or
    a lower bound.
    """
    sign = -1.0 if lower_is_better else 1.0
    known = {
        run.run_id: (sign * quality[run.run_id], run.emissions_g)
        for run in runs
        if run.lower_bound is None
        and math.isfinite(quality.get(run.run_id, math.nan))
        and math.isfinite(run.emissions_g)
    }
    return frozenset(
        run_id
        for run_id, (good, grams) in known.items()
        if not any(
            other_good >= good and other_grams <= grams and (other_good, other_grams) != (good, grams)
            for other_good, other_grams in known.values()
        )
    )


def _change(first_wh: float, other_wh: float) -> str:
    """The change relative to the first run, or in watt-hours if the first is 0."""
    word = "less" if other_wh < first_wh else "more"
    if first_wh <= 0:
        return f"{abs(other_wh - first_wh):.4g} Wh {word}"
    return f"{abs(other_wh / first_wh - 1):.1%} {word}"


def _advice(tags: Mapping[str, str]) -> str:
    if "missing" in tags.get("carbon.method", ""):
        return "no component could be read or modelled: run carbon-otel doctor on its host"
    if tags.get("carbon.status") == "running":
        return "it has not reached its first checkpoint, by default after 15 s"
    return "call carbon_otel.instrument() before it"

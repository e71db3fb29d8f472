"""Whether one run cost less than another, as far as their figures can tell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from carbon_otel.mlflow.schema import names

# What must be alike for two figures to be of the same kind, and why.
_ALIKE: Final = {
    "carbon.method": "the tiers differ, and so do their errors",
    "carbon.attribution": "different parts of the host are charged",
    "carbon.hardware": "other hardware draws other power",
    "carbon.missing": "a component is not in one of the figures",
    "carbon.zone": "emissions differ by the grid; compare the energy",
    "carbon.intensity_g_per_kwh": "emissions differ by the grid's factor; compare the energy",
    "carbon.intensity_source": "emissions differ by the table; compare the energy",
    "carbon.intensity_year": "emissions differ by the table's year; compare the energy",
    "carbon.pue": "emissions differ by the site; compare the energy",
}


class NotMeasured(ValueError):
    """The run has no figures of carbon_otel."""


@dataclass(frozen=True, slots=True)
class RunCost:
    """What a run's metrics and tags say, with bands: energy in Wh, emissions in g; NaN where it was not logged.

    `parent_run_id` is that of the run it is nested in, whose figures include it.
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
        """Raises NotMeasured."""
        if not math.isfinite(metrics.get(names.ENERGY_WH, math.nan)):
            raise NotMeasured(f"run {name} ({run_id}) has no metric {names.ENERGY_WH}; {_advice(tags)}")
        figures, ours = names.unpacked(metrics, tags)

        def known(metric: str) -> float:
            value = figures.get(metric, math.nan)
            return value if math.isfinite(value) else math.nan

        return cls(
            run_id=run_id,
            name=name,
            energy_wh=figures[names.ENERGY_WH],
            low_wh=known("carbon/energy_low_wh"),
            high_wh=known("carbon/energy_high_wh"),
            emissions_g=known("carbon/emissions_g"),
            low_g=known("carbon/emissions_low_g"),
            high_g=known("carbon/emissions_high_g"),
            duration_s=known("carbon/duration_s"),
            measured_fraction=names.measured_fraction(figures) if names.MEASURED_WH in figures else math.nan,
            tags=ours,
            parent_run_id=tags.get("mlflow.parentRunId"),
        )

    @property
    def lower_bound(self) -> str | None:
        """Why it may have used more than its band says: it did not end, or a component could not be read."""
        if self.tags.get("carbon.status") != "final":
            return "has not ended in order"
        missing = self.tags.get("carbon.missing")
        return f"lacks {missing}" if missing else None


def differences(runs: Sequence[RunCost]) -> list[str]:
    """In which ways the runs were not measured alike, one line each."""
    found = []
    for tag, why in _ALIKE.items():
        values = {run.tags.get(tag, "none") for run in runs}
        if len(values) > 1:
            said = "; ".join(f"{run.name}: {run.tags.get(tag, 'none')}" for run in runs)
            found.append(f"{tag.removeprefix('carbon.')} ({why}): {said}")
    names = {run.run_id: run.name for run in runs}
    for run in runs:
        if run.lower_bound:
            found.append(f"{run.name} {run.lower_bound}; its figures are lower bounds")
        if run.parent_run_id in names:
            found.append(f"{run.name} is nested in {names[run.parent_run_id]}, whose figures include it")
        if int(run.tags.get("carbon.segments", "1")) > 1:
            found.append(f"{run.name} was resumed; its tags are those of its last segment")
    return found


def verdict(first: RunCost, other: RunCost) -> str:
    """Whether `other` used less energy than `first`, only where their bands say so.

    The bands are taken as independent, the cautious rule: errors that two runs on the same device share, such as
    a sensor's own, would cancel in part, but nobody has measured how far. A lower bound has no upper end. The
    energy is compared, not the emissions: on the same grid its intensity multiplies both and cancels, and on two
    grids the emissions compare those.
    """
    by = f"{_change(first.energy_wh, other.energy_wh)} energy than {first.name}"
    if any(map(math.isnan, (first.low_wh, first.high_wh, other.low_wh, other.high_wh))):
        return f"{other.name}: {by}; without bands nobody can tell whether that is a difference"
    for less, more in ((first, other), (other, first)):
        if less.high_wh < more.low_wh:
            if less.lower_bound:
                return f"{other.name}: {by}, but {less.name} {less.lower_bound}: they cannot be told apart"
            return f"{other.name} used {by}, beyond both bands"
    return f"{other.name}: {by}, but the bands overlap: they cannot be told apart"


def pareto(
    runs: Sequence[RunCost], quality: Mapping[str, float], *, lower_is_better: bool = False
) -> frozenset[str]:
    """Ids of the runs that no other beats: none has as good a quality for less emissions, or a better one for as
    little.

    `quality` is the metric by run id; a run without one, or whose emissions are unknown or a lower bound, is not
    among those that are compared.
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
    """A share of nothing is no number."""
    word = "less" if other_wh < first_wh else "more"
    if first_wh <= 0:
        return f"{abs(other_wh - first_wh):.4g} Wh {word}"
    return f"{abs(other_wh / first_wh - 1):.1%} {word}"


def _advice(tags: Mapping[str, str]) -> str:
    if "missing" in tags.get("carbon.method", ""):
        return "nothing could be read or modelled where it ran: see carbon-otel doctor there"
    if tags.get("carbon.status") == "running":
        return "it has not reached its first checkpoint, after 15 s by default"
    return "call carbon_otel.instrument() before it"

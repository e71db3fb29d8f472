"""Comparison of the costs of runs, within the limits of their bands."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from carbon_otel.mlflow.schema import contributions, names
from carbon_otel.mlflow.schema.checked import amount
from carbon_otel.quantities import watt_hours

# Tags that must be equal if figures are to be comparable, each with the reason.
ENERGY_ALIKE: Final = {
    "carbon.method": "the tiers have different errors",
    "carbon.attribution": "different parts of the host are charged",
    "carbon.hardware": "different hardware draws different power",
    "carbon.missing": "a component is not in one of the figures",
}
EMISSIONS_ALIKE: Final = {
    "carbon.zone": "emissions differ by the grid; compare the energy",
    "carbon.intensity_g_per_kwh": "emissions differ by the grid's factor; compare the energy",
    "carbon.intensity_source": "emissions differ by the table; compare the energy",
    "carbon.intensity_signal": "emissions count different things; compare the energy",
    "carbon.intensity_year": "emissions differ by the table's year; compare the energy",
    "carbon.pue": "emissions differ by the site; compare the energy",
}


# The shares of the host by each rule of attribution. Two are alike within this part of the larger one.
_SHARES: Final = ("carbon.share.reserved", "carbon.share.process")
_ALIKE_WITHIN: Final = 0.05
# From this ratio on, it is named instead of per cent.
_TIMES: Final = 10.0
_GPU_WH: Final = "carbon/components/gpu_wh"
_NOT_BORNE_OUT: Final = "and their own CPU time does not bear it out"


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
    gpu_wh: float = 0.0

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
            gpu_wh=amount({_GPU_WH: 0.0, **figures}, _GPU_WH),
        )

    def __repr__(self) -> str:
        from carbon_otel.lifecycle.shown import summary_of_run

        return f"RunCost({summary_of_run(self)})"

    @property
    def lower_bound(self) -> str | None:
        """The reason why the run may have used more than its band; None if its figures are complete."""
        return names.lower_bound(self.tags)

    def share(self, tag: str) -> float | None:
        """The share of the host in a tag; None if the run has none."""
        return _share(self.tags, tag)

    def by_process(self) -> RunCost | None:
        """The cost as `attribution="process"` would have it, by the mean shares; None without them.

        What other programs on the host use is in the figures of `reserved`, and so is what they leave to it. A
        GPU is charged by its own share, and stays.
        """
        if self.tags.get("carbon.attribution") == "process":
            return self
        reserved, process = map(self.share, _SHARES)
        if reserved is None or process is None or self.energy_wh <= 0:
            return None
        of_host = max(0.0, self.energy_wh - self.gpu_wh) / self.energy_wh
        ratio = 1 - of_host + of_host * process / reserved
        energy_wh, low_wh, high_wh = (wh * ratio for wh in (self.energy_wh, self.low_wh, self.high_wh))
        return replace(self, energy_wh=energy_wh, low_wh=low_wh, high_wh=high_wh)


def differences(runs: Sequence[RunCost]) -> list[str]:
    """The differences in how the runs were measured, one line each."""
    lines = []
    for tag, why in (ENERGY_ALIKE | EMISSIONS_ALIKE).items():
        values = {run.run_id: run.tags.get(tag, "none") for run in runs}
        if len(set(values.values())) > 1:
            each = "; ".join(f"{run.name}: {values[run.run_id]}" for run in runs)
            lines.append(f"{tag.removeprefix('carbon.')} ({why}): {each}")
    for tag in shares_that_differ(runs):
        each = "; ".join(f"{run.name}: {run.tags.get(tag, 'unknown')}" for run in runs)
        lines.append(f"{tag.removeprefix('carbon.')} (the rest of the host was otherwise in use): {each}")
    names_of = {run.run_id: run.name for run in runs}
    for run in runs:
        if run.lower_bound:
            lines.append(f"{run.name} {run.lower_bound}; its figures are lower bounds")
        if run.parent_run_id in names_of:
            lines.append(f"{run.name} is nested in {names_of[run.parent_run_id]}, whose figures include it")
        if run.tags.get("carbon.segments", "1") != "1":
            lines.append(f"{run.name} was resumed; its tags are those of its last segment")
    return lines


def shares_that_differ(runs: Sequence[RunCost]) -> list[str]:
    """The tags of the shares of the host in which the runs differ; none where each pays for its own CPU time."""
    if all(run.tags.get("carbon.attribution") == "process" for run in runs):
        return []
    return [tag for tag in _SHARES if not all(_alike(tag, runs[0].tags, run.tags) for run in runs[1:])]


def energy_unlike(first: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """The reasons why the energies of two runs with these tags are not comparable; empty if they are."""
    lines = [
        f"{tag.removeprefix('carbon.')} differs: {why}"
        for tag, why in ENERGY_ALIKE.items()
        if first.get(tag, "none") != other.get(tag, "none")
    ]
    by_process = first.get("carbon.attribution") == other.get("carbon.attribution") == "process"
    unlike = [] if by_process else [tag for tag in _SHARES if not _alike(tag, first, other)]
    return lines + [
        f"{tag.removeprefix('carbon.')} differs: the rest of the host was otherwise in use" for tag in unlike
    ]


def verdict(first: RunCost, other: RunCost) -> str:
    """Whether `other` used less energy than `first`: only if their bands do not overlap.

    The bands are treated as independent, which is cautious: errors that two runs on one device share, such as
    those of its sensor, cancel in part, but this effect has not been measured. A lower bound has no upper end.
    Where the shares of the host or the rules of attribution differ, other programs may be the reason: the figures
    by the CPU time of the runs have to bear it out. Energy is compared, not emissions: on one grid the intensity
    multiplies both and cancels; on two grids the emissions would compare the grids.
    """
    by = _change(first, other)
    if any(map(math.isnan, (first.low_wh, first.high_wh, other.low_wh, other.high_wh))):
        return f"{other.name}: {by}; without bands it is unknown whether they differ"
    for less, more in ((first, other), (other, first)):
        if less.high_wh < more.low_wh:
            if less.lower_bound:
                return f"{other.name}: {by}, but {less.name} {less.lower_bound}: they are not distinguishable"
            reason = _charged_otherwise(first.tags, other.tags)
            if reason and not _by_process(less, more):
                return f"{other.name}: {by}, but {reason}, {_NOT_BORNE_OUT}: they are not distinguishable"
            return f"{other.name} used {by}, beyond both bands"
    return f"{other.name}: {by}, but the bands overlap: they are not distinguishable"


def _alike(tag: str, first: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether runs with these tags had the same share of the host; runs without shares count as alike."""
    one, two = _share(first, tag), _share(other, tag)
    return one is None or two is None or abs(one - two) <= _ALIKE_WITHIN * max(one, two)


def _charged_otherwise(first: Mapping[str, str], other: Mapping[str, str]) -> str:
    """In what the runs with these tags were charged for different parts of the host; empty if in nothing."""
    if first.get("carbon.attribution") != other.get("carbon.attribution"):
        return "their rules of attribution differ"
    return "" if all(_alike(tag, first, other) for tag in _SHARES) else "their shares of the host differ"


def _share(tags: Mapping[str, str], tag: str) -> float | None:
    try:
        share = float(tags[tag])
    except (KeyError, ValueError):
        return None
    return share if 0 < share <= 1 else None


def _by_process(less: RunCost, more: RunCost) -> bool:
    """Whether one run has used less than another by their own CPU time, too."""
    low, high = less.by_process(), more.by_process()
    return low is not None and high is not None and low.high_wh < high.low_wh


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


def _change(first: RunCost, other: RunCost) -> str:
    """The change relative to the first run, or in watt-hours if the first is 0."""
    if first.energy_wh == other.energy_wh:
        return f"as much energy as {first.name}"
    word = "less" if other.energy_wh < first.energy_wh else "more"
    if first.energy_wh <= 0:
        return f"{watt_hours(abs(other.energy_wh - first.energy_wh))} {word} energy than {first.name}"
    ratio = other.energy_wh / first.energy_wh
    if ratio >= _TIMES:
        return f"{ratio:.3g} times the energy of {first.name}"
    return f"{abs(ratio - 1):.1%} {word} energy than {first.name}"


def _advice(tags: Mapping[str, str]) -> str:
    if "missing" in tags.get("carbon.method", ""):
        return "no component could be read or modelled: run carbon-otel doctor on its host"
    if tags.get("carbon.status") == "running":
        return "it has not reached its first checkpoint, by default after 15 s"
    return "call carbon_otel.instrument() before it"

"""Whether a variant uses less energy than a base for each unit of work, at equal quality, by repeated runs.

The figure is the ratio of the two groups. An error of the meter that multiplies both figures cancels in it; what
remains is the spread of the repeats, and what the meter cannot know: two hosts have two sensors, and a model knows
the utilisation of a processor, but not what it computes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from carbon_otel.lifecycle import better
from carbon_otel.lifecycle.comparison import EMISSIONS_ALIKE, ENERGY_ALIKE, RunCost
from carbon_otel.lifecycle.likeness import (
    HOST,
    not_alike,
    not_borne_out,
    one_after_the_other,
    systematic_error,
)
from carbon_otel.lifecycle.payback import OneOff, Payback, payback, saving
from carbon_otel.lifecycle.proof_text import text
from carbon_otel.lifecycle.repeat import Repeat, Work, band_of, measured_fraction, work_of
from carbon_otel.lifecycle.repeats import Interval, detectable, difference, repeats_needed, variance
from carbon_otel.mlflow.schema import names

Verdict = Literal[
    "proven saving", "proven loss", "cannot be told apart", "quality not equal", "not comparable"
]
# Metrics are sums of floats: a difference of exactly the tolerance is within it.
_ROUNDING: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Side:
    """One group of repeats.

    Attributes:
        name: the common name of its runs.
        run_ids: its runs, in the order of their starts.
        quality: mean of the metric.
        wh_per_unit, g_per_unit: geometric means. Grams are CO2 equivalent.
        low, high: the band of the meter (k=2) about them, as two factors.
        spread: standard deviation of the logarithm of the energy per unit; None for one run.
        measured_fraction: share of the energy that sensors measured.
    """

    name: str
    run_ids: tuple[str, ...]
    quality: float
    wh_per_unit: float
    g_per_unit: float
    low: float
    high: float
    spread: float | None
    measured_fraction: float


@dataclass(frozen=True, slots=True)
class Proof:
    """The energy per unit of work of two groups of runs, at what quality.

    Attributes:
        verdict: what was proven.
        reasons: why it is not more, and what the figures do not know.
        metric, tolerance, lower_is_better: the quality, and by how much it may be worse.
        work: the unit of work, such as samples of inference.
        base, variant: the two groups.
        quality: the gain of the variant with its 95 % interval, below 0 if it is worse; without limits for single
            runs.
        ratio: energy per unit of the variant by that of the base, with its 95 % interval; None if the runs are not
            comparable.
        repeats_needed: repeats of each that would show this ratio with a probability of 80 %; None if no number
            does, or if the spread is unknown.
        detectable: the saving that so many repeats show with a probability of 80 %; None without a spread.
        emissions_alike: whether both groups priced their energy in one way: their grams have the same ratio.
        payback: of the one-off costs that were given.
        left_out: runs that do not count, each with the reason.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    metric: str
    tolerance: float
    lower_is_better: bool
    work: Work
    base: Side
    variant: Side
    quality: Interval
    ratio: Interval | None
    repeats_needed: int | None
    detectable: float | None
    emissions_alike: bool
    payback: Payback | None
    left_out: tuple[str, ...]

    @property
    def saving(self) -> Interval | None:
        """The part of the energy that the variant saves, with its interval; below 0 if it uses more."""
        if self.ratio is None:
            return None
        return Interval(1 - self.ratio.value, 1 - self.ratio.high, 1 - self.ratio.low)

    def as_dict(self) -> dict[str, Any]:
        """In plain types, with infinity for a limit that is not known."""
        saved = self.saving
        return {
            **asdict(self),
            "work": self.work._asdict(),
            "saving": None if saved is None else asdict(saved),
        }

    def __str__(self) -> str:
        return text(self)


def proof_of(
    ours: Sequence[Repeat],
    theirs: Sequence[Repeat],
    metric: str,
    tolerance: float,
    *,
    lower_is_better: bool | None = None,
    stage: str | None = None,
    unit: str | None = None,
    one_off: Sequence[RunCost | float] = (),
    left_out: Sequence[str] = (),
) -> Proof:
    """Hold the repeats of a variant (`theirs`) against those of a base.

    Raises:
        ValueError: for a stage or unit that the runs do not have, a run in both groups, a tolerance below 0, or a
            metric whose name does not say which values are better.
    """
    if not tolerance >= 0:
        raise ValueError(f"the tolerance is {tolerance:g}; write 0 or more")
    both = {each.entry.run_id for each in ours} & {each.entry.run_id for each in theirs}
    if both:
        raise ValueError(f"a run is in both groups: {', '.join(sorted(both))}")
    work = work_of([*ours, *theirs], stage, unit)
    lower = better.lower_is_better(metric) if lower_is_better is None else lower_is_better
    gain = _gain(ours, theirs, lower)
    sides = _sides(ours, theirs, work)
    base_log, variant_log = (
        [math.log(each.per_unit(work).energy_wh) for each in group] for group in (ours, theirs)
    )
    unlike = not_alike(ours, theirs, ENERGY_ALIKE)
    systematic, reasons = systematic_error(ours, theirs)
    change = difference(base_log, variant_log, systematic)
    verdict, why = _verdict(change, gain, tolerance, known=min(len(ours), len(theirs)) > 1)
    other_work = not_borne_out(ours, theirs, base_log, variant_log, systematic)
    if other_work is not None and verdict.startswith("proven"):
        verdict, why = "cannot be told apart", [other_work]
    if unlike:
        verdict, why = "not comparable", unlike
    ratio = None if unlike else Interval(*map(math.exp, (change.value, change.low, change.high)))
    grams_alike = not not_alike(ours, theirs, EMISSIONS_ALIKE)
    least = math.inf if unlike else detectable(base_log, variant_log, systematic)
    return Proof(
        verdict=verdict,
        reasons=(*why, *reasons, *one_after_the_other(ours, theirs)),
        metric=metric,
        tolerance=tolerance,
        lower_is_better=lower,
        work=work,
        base=sides[0],
        variant=sides[1],
        quality=gain,
        ratio=ratio,
        repeats_needed=None if unlike else repeats_needed(base_log, variant_log, systematic),
        detectable=-math.expm1(-least) if math.isfinite(least) else None,
        emissions_alike=grams_alike,
        payback=None
        if ratio is None or not one_off
        else _payback(
            [_one_off(cost, ours[0].cost) for cost in one_off], ours, theirs, work, ratio, grams_alike
        ),
        left_out=tuple(left_out),
    )


def _gain(base: Sequence[Repeat], variant: Sequence[Repeat], lower_is_better: bool) -> Interval:
    """How much better the variant is; its interval has no limits if there is one run of a group."""
    sign = -1.0 if lower_is_better else 1.0
    return difference([sign * each.quality for each in base], [sign * each.quality for each in variant])


def _verdict(change: Interval, gain: Interval, tolerance: float, *, known: bool) -> tuple[Verdict, list[str]]:
    """The verdict and its reasons, from the change of log energy and the gain in quality.

    `known`: there are repeats. Single runs are compared by their values, and prove nothing about the energy.
    """
    worse, better = (gain.low, gain.high) if known else (gain.value, gain.value)
    not_worse, not_better = worse >= -tolerance - _ROUNDING, better <= tolerance + _ROUNDING
    surely_worse = (gain.high if known else gain.value) < -tolerance - _ROUNDING
    surely_better = (gain.low if known else gain.value) > tolerance + _ROUNDING
    less, more = change.high < 0, change.low > 0
    if more and not_better:
        return "proven loss", []
    if surely_worse:
        return "quality not equal", ["the variant is worse by more than the tolerance"]
    if more and surely_better:
        return "quality not equal", ["the variant is better by more than the tolerance, and uses more energy"]
    if less and not_worse:
        return "proven saving", []
    if less or more:
        return "cannot be told apart", ["the repeats do not show whether the quality is equal"]
    if not known:
        return "cannot be told apart", ["the spread is unknown with one run of a group"]
    return "cannot be told apart", ["the interval of the ratio has 1 in it"]


def _sides(base: Sequence[Repeat], variant: Sequence[Repeat], work: Work) -> tuple[Side, Side]:
    titles = [_name(group) for group in (base, variant)]
    if titles[0] == titles[1]:
        titles = [f"{name} ({role})" for name, role in zip(titles, ("base", "variant"), strict=True)]
    one, two = (_side(name, group, work) for name, group in zip(titles, (base, variant), strict=True))
    return one, two


def _name(group: Sequence[Repeat]) -> str:
    return ", ".join(dict.fromkeys(each.entry.name for each in group))


def _side(name: str, repeats: Sequence[Repeat], work: Work) -> Side:
    costs = [each.per_unit(work) for each in repeats]
    logs = [math.log(cost.energy_wh) for cost in costs]
    low, high = band_of(repeats)
    spread = variance(logs)
    grams = [cost.emissions_g for cost in costs]
    return Side(
        name=name,
        run_ids=tuple(each.entry.run_id for each in repeats),
        quality=math.fsum(each.quality for each in repeats) / len(repeats),
        wh_per_unit=math.exp(math.fsum(logs) / len(logs)),
        g_per_unit=math.exp(math.fsum(map(math.log, grams)) / len(grams)) if min(grams) > 0 else 0.0,
        low=low,
        high=high,
        spread=None if spread is None else math.sqrt(spread),
        measured_fraction=measured_fraction(repeats),
    )


def _payback(
    costs: Sequence[OneOff],
    base: Sequence[Repeat],
    variant: Sequence[Repeat],
    work: Work,
    ratio: Interval,
    grams_alike: bool,
) -> Payback:
    ours, theirs = ([each.per_unit(work) for each in group] for group in (base, variant))
    saved_wh = saving([cost.energy_wh for cost in ours], [cost.energy_wh for cost in theirs], ratio)
    saved_g = saving([cost.emissions_g for cost in ours], [cost.emissions_g for cost in theirs], ratio)
    return payback(costs, saved_wh, saved_g if grams_alike else None, band_of(base))


def _one_off(cost: RunCost | float, run: RunCost) -> OneOff:
    """A one-off cost beside a run of the base."""
    if not isinstance(cost, RunCost):
        return OneOff(f"{cost:g} Wh", Interval(cost, cost, cost))
    common = all(cost.tags.get(tag) == run.tags.get(tag) for tag in (*ENERGY_ALIKE, HOST))
    low, high = (cost.energy_wh, cost.energy_wh) if common else (cost.low_wh, cost.high_wh)
    energy = Interval(cost.energy_wh, low, math.inf if cost.lower_bound else high)
    alike = cost.tags.get(names.SIGNAL) == run.tags.get(names.SIGNAL)
    grams = cost.emissions_g if alike and math.isfinite(cost.emissions_g) else None
    return OneOff(cost.name, energy, grams, common)

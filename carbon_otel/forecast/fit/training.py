"""Fits the prior of MFU on the published training runs of language models."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from carbon_otel.forecast.efficiency import FEATURES, Prior, features, learned, sparsity
from carbon_otel.forecast.fit.linear import inverse, normal_matrix, quantile, ridge_regression
from carbon_otel.forecast.hardware import accelerator
from carbon_otel.forecast.records import Interval
from carbon_otel.forecast.tables import rows

# One: a coefficient costs as much as one run that misses by as much. Some 48 variants were tried on the same rows,
# with median errors of 19 to 26 %; this is among the better ones.
_RIDGE: Final = (0.0,) + (1.0,) * (len(FEATURES) - 1)
_S_PER_H: Final = 3600.0
_SMALLEST_VARIANCE: Final = 0.01


@dataclass(frozen=True, slots=True)
class Run:
    """A published training run.

    Attributes:
        model: its name.
        family: models that are left out together.
        chip: the catalogue's name.
        params: all parameters.
        active_params: parameters that one token meets.
        tokens: of the training.
        gpu_hours: as published.
        peak: of the chip, in FLOP/s.
        hours_kind: `reported`, `days`, `rough`, `throughput`, `derived`.
    """

    model: str
    family: str
    chip: str
    params: float
    active_params: float
    tokens: float
    gpu_hours: float
    peak: float
    hours_kind: str

    @property
    def mfu(self) -> float:
        """6ND over the hours at peak."""
        return 6 * self.active_params * self.tokens / (self.gpu_hours * _S_PER_H * self.peak)

    @property
    def features(self) -> tuple[float, ...]:
        """The features of the prior."""
        return features(
            self.chip,
            sparse=sparsity(self.active_params / self.params),
            active_params=self.active_params,
            steady=self.hours_kind == "throughput",
        )

    @property
    def exact(self) -> bool:
        """Whether the hours are stated, neither rounded to weeks nor computed from a throughput."""
        return self.hours_kind not in ("rough", "throughput")


def runs() -> list[Run]:
    """The runs of language models that may be fitted on."""
    return [
        _run(row)
        for row in rows("training_runs")
        if row["use_in_fit"] == "yes" and row["domain"].startswith("llm") and row["tokens_b"]
    ]


def _run(row: Mapping[str, str]) -> Run:
    return Run(
        model=row["model"],
        family=row["family"],
        chip=accelerator(row["chip"]).name,
        params=float(row["params_b"]) * 1e9,
        active_params=float(row["active_params_b"]) * 1e9,
        tokens=float(row["tokens_b"]) * 1e9,
        gpu_hours=float(row["gpu_hours"]),
        peak=float(row["peak_tflops"]) * 1e12,
        hours_kind=row["hours_kind"],
    )


def fit_prior(published: Sequence[Run]) -> Prior:
    """Fit the prior. Its interval comes from the residuals of families that are left out in turn."""
    residuals = left_out_residuals(published)
    weights = _weights(published)
    scaled = [residual / scale for residual, scale in residuals]
    coefficients, spread = _fit(published)
    within, between = _variances(published, [residual for residual, _ in residuals])
    known = _with_earlier_runs(published, residuals, within, between)
    chosen = [weights[i] for i in known]
    left = list(known.values())
    return Prior(
        coefficients,
        spread,
        low=quantile(scaled, weights, 0.1),
        high=quantile(scaled, weights, 0.9),
        past_low=quantile(left, chosen, 0.1),
        past_high=quantile(left, chosen, 0.9),
        within=within,
        between=between,
    )


def _with_earlier_runs(
    published: Sequence[Run], residuals: Sequence[tuple[float, float]], within: float, between: float
) -> dict[int, float]:
    """By the index of a run with exact hours: the residual that earlier runs of its family leave, scaled."""
    past: dict[str, list[float]] = defaultdict(list)
    found = {}
    for i, (run, (residual, scale)) in enumerate(zip(published, residuals, strict=True)):
        if past[run.family] and run.exact:
            shift, left = learned(past[run.family], within, between)
            found[i] = (residual - shift) / (scale * left)
        past[run.family].append(residual)
    return found


def left_out_residuals(published: Sequence[Run]) -> list[tuple[float, float]]:
    """For each run, ln (MFU / expected) by a fit without its family, and the scale of its interval."""
    fits = {
        family: Prior(*_fit([run for run in published if run.family != family]), 0, 0, 0, 0, 1, 1)
        for family in {run.family for run in published}
    }
    found = []
    for run in published:
        fit = fits[run.family]
        found.append((math.log(run.mfu) - fit.log_mean(run.features), fit.scale(run.features)))
    return found


@dataclass(frozen=True, slots=True)
class Judged:
    """A run, and the interval of its MFU by a prior that has seen no run of its family, or only earlier ones."""

    run: Run
    mfu: Interval

    @property
    def error(self) -> float:
        """Forecast GPU-hours / published ones - 1."""
        return self.run.mfu / self.mfu.p50 - 1

    @property
    def covered(self) -> bool:
        """Whether the published hours lie between p10 and p90."""
        return self.mfu.p10 <= self.run.mfu <= self.mfu.p90

    @property
    def interval_score(self) -> float:
        """The interval score of ln hours at 80 % (Gneiting and Raftery 2007); less is better."""
        low, high, true = (math.log(x) for x in (self.mfu.p10, self.mfu.p90, self.run.mfu))
        return high - low + 2 / 0.2 * (max(low - true, 0) + max(true - high, 0))


def judge(published: Sequence[Run], *, earlier: bool = False) -> list[Judged]:
    """Judge each run by a prior that is fitted, with its interval, without the run's family.

    Args:
        published: the runs.
        earlier: let the prior learn from the runs of the family that stand before it in the table, as from a
            user's own; then only exact hours with such a run are judged.
    """
    judged = []
    for family in dict.fromkeys(run.family for run in published):
        fit = fit_prior([run for run in published if run.family != family])
        past: list[float] = []
        for run in (run for run in published if run.family == family):
            if not earlier:
                judged.append(Judged(run, fit.mfu(run.features)))
            elif past and run.exact:
                judged.append(Judged(run, fit.mfu(run.features, past)))
            past.append(math.log(run.mfu) - fit.log_mean(run.features))
    return judged


def _fit(published: Sequence[Run]) -> tuple[list[float], list[list[float]]]:
    matrix = [run.features for run in published]
    weights = _weights(published)
    values = [math.log(run.mfu) for run in published]
    return ridge_regression(matrix, values, weights, _RIDGE), inverse(normal_matrix(matrix, weights, _RIDGE))


def _weights(published: Iterable[Run]) -> list[float]:
    published = list(published)
    sizes = Counter(run.family for run in published)
    return [sizes[run.family] ** -0.5 for run in published]


def _variances(published: Sequence[Run], residuals: Sequence[float]) -> tuple[float, float]:
    families: dict[str, list[float]] = defaultdict(list)
    for run, residual in zip(published, residuals, strict=True):
        families[run.family].append(residual)
    several = [values for values in families.values() if len(values) > 1]
    squares = sum((x - statistics.mean(values)) ** 2 for values in several for x in values)
    within = squares / sum(len(values) - 1 for values in several)
    return within, max(statistics.pvariance(residuals) - within, _SMALLEST_VARIANCE)

"""The prior of model FLOPs utilisation (MFU): which part of an accelerator's peak a training run reaches.

ln MFU is linear in the chip's class, in how far the model is a mixture of experts, and in the logarithm of its
active parameters; the coefficients are fitted on published runs (`fit.training`). A user's own finished runs move
the prior: their mean residual counts by n / (n + variance within / variance between families).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from carbon_otel.forecast.records import Interval
from carbon_otel.forecast.tables import fitted

FEATURES: Final = (
    "1",
    "Hopper",
    "other chip",
    "mixture of experts",
    "ln(active parameters / 7e9)",
    "steady state",
)
_TYPICAL_PARAMS: Final = 7e9
# A model counts as a mixture of experts in full if a token meets at most this share of its parameters, and in part
# above it. All published mixtures lie below: 0.04 to 0.32.
_SPARSE: Final = 0.5
_AMPERE: Final = ("A100", "A800")
_HOPPER: Final = ("H100", "H800", "H200", "GH200")


def sparsity(active_share: float) -> float:
    """How far a model is a mixture of experts, 0 to 1, by the share of its parameters that one token meets."""
    return min(1.0, max(0.0, 1 - active_share) / (1 - _SPARSE))


def features(chip: str, *, sparse: float, active_params: float, steady: bool = False) -> tuple[float, ...]:
    """The features of a run.

    Args:
        chip: the catalogue's name.
        sparse: `sparsity` of the model.
        active_params: parameters that one token meets.
        steady: whether the hours leave out restarts and pauses, as those computed from a throughput do.
    """
    hopper, ampere = chip.startswith(_HOPPER), chip.startswith(_AMPERE)
    return (
        1.0,
        float(hopper),
        float(not hopper and not ampere),
        sparse,
        math.log(active_params / _TYPICAL_PARAMS),
        float(steady),
    )


@dataclass(frozen=True, slots=True)
class Prior:
    """A fitted prior; residuals and variances are those of ln MFU.

    Attributes:
        coefficients: one for each feature.
        spread: the inverse of the normal matrix, in which the interval of a run far from all others grows.
        low: 10th percentile of the residuals of runs whose family was left out, over sqrt(1 + leverage).
        high: their 90th percentile.
        past_low: 10th percentile of the residuals that are left where earlier runs of the family have moved the
            prior, over sqrt(1 + leverage) and the share of the variance that they leave.
        past_high: their 90th percentile.
        within: variance of the residuals within a family.
        between: variance of the families' means.
    """

    coefficients: Sequence[float]
    spread: Sequence[Sequence[float]]
    low: float
    high: float
    past_low: float
    past_high: float
    within: float
    between: float

    def log_mean(self, row: Sequence[float]) -> float:
        """The expected ln MFU."""
        return sum(c * x for c, x in zip(self.coefficients, row, strict=True))

    def scale(self, row: Sequence[float]) -> float:
        """sqrt(1 + leverage): how much wider the interval is than that of a run amid the others."""
        reach = [sum(s * y for s, y in zip(line, row, strict=True)) for line in self.spread]
        leverage = sum(x * each for x, each in zip(row, reach, strict=True))
        return math.sqrt(1 + leverage)

    def mfu(self, row: Sequence[float], residuals: Sequence[float] = ()) -> Interval:
        """The interval of the MFU.

        Args:
            row: the features of the run.
            residuals: ln of (MFU reached / expected) of earlier runs of the same user.
        """
        scale = self.scale(row)
        low, high, shift = self.low * scale, self.high * scale, 0.0
        if residuals:
            shift, left = learned(residuals, self.within, self.between)
            low, high = self.past_low * scale * left, self.past_high * scale * left
        middle = min(self.log_mean(row) + shift, 0.0)
        return Interval(
            math.exp(middle + min(low, 0.0)), math.exp(middle), min(math.exp(middle + max(high, 0.0)), 1.0)
        )


def learned(residuals: Sequence[float], within: float, between: float) -> tuple[float, float]:
    """How far earlier runs of the same user move ln MFU, and which share of its standard deviation they leave.

    What they leave unknown is the rest of the user's own mean, and the spread about it.
    """
    weight = len(residuals) / (len(residuals) + within / between)
    shift = weight * sum(residuals) / len(residuals)
    return shift, math.sqrt((within + (1 - weight) * between) / (within + between))


def prior() -> Prior:
    """The prior that the package ships."""
    return from_constants(fitted()["training"])


def from_constants(constants: Mapping[str, Any]) -> Prior:
    """A prior from its constants in the file."""
    names = ("coefficients", "spread", "low", "high", "past_low", "past_high", "within", "between")
    return Prior(**{name: constants[name] for name in names})

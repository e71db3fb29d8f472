"""The best start for a run with a known profile of energy, by a forecast of intensities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Final

from carbon_otel.carbon.intensity import Intensity, Signal, same_signal
from carbon_otel.intensity.pricing import Use
from carbon_otel.intensity.series import within
from carbon_otel.provenance import quadrature
from carbon_otel.quantities import duration
from carbon_otel.units import KILO

STEP: Final = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class Start:
    """A start, and the mean intensity over the energy of a run that begins there, in grams per kilowatt-hour."""

    at: datetime
    end: datetime
    g_per_kwh: float


@dataclass(frozen=True, slots=True)
class BestStart:
    """When to start a run.

    Attributes:
        now: a start now.
        best: the start with the lowest intensity.
        starts: all possible starts, by time.
        saving: share of the emissions that `best` saves; `saving_low` and `saving_high` are its band, as if the
            errors of the two forecasts were independent.
        signal: what the intensities count; grams of a marginal one are no footprint.
        source: publication of the forecast.
    """

    now: Start
    best: Start
    starts: tuple[Start, ...]
    saving: float
    saving_low: float
    saving_high: float
    signal: Signal
    source: str

    def __repr__(self) -> str:
        return f"BestStart({self.verdict})"

    @property
    def is_worth_waiting(self) -> bool:
        """Whether the saving is larger than the error of the forecast."""
        return self.saving_low > 0

    @property
    def verdict(self) -> str:
        """The advice in one sentence."""
        if self.best is self.now:
            return "no later start has a lower intensity"
        if not self.is_worth_waiting:
            return "no difference worth waiting for: the forecast's own error is as large as the best saving"
        return (
            f"start at {self.best.at:%Y-%m-%d %H:%M} UTC: {self.saving:.0%} less than now "
            f"(between {self.saving_low:.0%} and {self.saving_high:.0%})"
        )


def best_start(
    profile: Sequence[Use], values: Sequence[Intensity], now: datetime, hours: float = 24.0
) -> BestStart:
    """Find the best start in the next hours, in steps of 15 minutes.

    Args:
        profile: the energy of a run like this one; only the distances between its times count.
        values: a series of forecast intensities.
        now: the present time.
        hours: the latest start.

    Raises:
        ValueError: for a profile without energy, or if the forecast does not cover a run that starts now.
        MixedSignals: for intensities of different signals.
    """
    total_wh = math.fsum(use.wh for use in profile)
    if not total_wh > 0:
        raise ValueError("the run has no energy whose times are known")
    begin = min(use.start for use in profile)
    length = max(use.end for use in profile) - begin
    starts = []
    for at in (now, *_quarters(now, now + timedelta(hours=hours))):
        g_per_kwh = _mean(profile, at - begin, values, total_wh)
        if g_per_kwh is not None:
            starts.append(Start(at, at + length, g_per_kwh))
    if not starts or starts[0].at != now:
        last = max((value.end for value in values), default=now)
        raise ValueError(
            f"the forecast does not cover a run of {duration(length.total_seconds())} from now: it ends in "
            f"{duration(max(0.0, (last - now).total_seconds()))}, or has gaps"
        )
    first, best = starts[0], min(starts, key=lambda start: (start.g_per_kwh, start.at))
    ratio = best.g_per_kwh / first.g_per_kwh if first.g_per_kwh > 0 else 1.0
    below = quadrature(1 - value for value in _lows(values, (first, best)))
    above = quadrature(value - 1 for value in _highs(values, (first, best)))
    if best is first:
        below = above = 0.0
    return BestStart(
        now=first,
        best=best,
        starts=tuple(starts),
        saving=1 - ratio,
        saving_low=1 - ratio * (1 + above),
        saving_high=min(1.0, 1 - ratio * (1 - below)),
        signal=same_signal(values),
        source=values[0].source,
    )


def _mean(
    profile: Sequence[Use], shift: timedelta, values: Sequence[Intensity], total_wh: float
) -> float | None:
    """The mean intensity over the energy; None where an interval has no value."""
    parts = []
    for use in profile:
        length_s = (use.end - use.start).total_seconds()
        seconds = 0.0
        for value, part_s in within(values, use.start + shift, use.end + shift):
            seconds += part_s
            parts.append(use.wh * part_s / length_s * value.g_per_kwh)
        if use.wh > 0 and seconds < length_s - 1:
            return None
    return math.fsum(parts) / total_wh


def _lows(values: Sequence[Intensity], starts: tuple[Start, Start]) -> list[float]:
    return [
        min((value.band.low for value, _ in within(values, start.at, start.end)), default=1)
        for start in starts
    ]


def _highs(values: Sequence[Intensity], starts: tuple[Start, Start]) -> list[float]:
    return [
        max((value.band.high for value, _ in within(values, start.at, start.end)), default=1)
        for start in starts
    ]


def _quarters(after: datetime, until: datetime) -> list[datetime]:
    step_s = STEP.total_seconds()
    first = datetime.fromtimestamp((after.timestamp() // step_s + 1) * step_s, timezone.utc)
    count = int((until - first) / STEP) + 1
    return [first + number * STEP for number in range(max(0, count))]


def saved_g(best: BestStart, energy_wh: float, pue: float) -> float:
    """Grams that the best start avoids for this energy, by the signal of the forecast."""
    return energy_wh / KILO * pue * (best.now.g_per_kwh - best.best.g_per_kwh)

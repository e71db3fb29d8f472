"""The carbon intensity of electricity as a typed value.

Four things make two figures comparable (GHG Protocol, Scope 2 Guidance; SCI, ISO/IEC 21031). Together they are
the `Signal`:

* `kind`: `average` of the grid, `marginal` (of the plant that answers a change of demand), or `residual` (what is
  left when contracts are taken out);
* `method`: `location` (the grid where the energy was used) or `market` (the contracts of the user);
* `scope`: `direct` (the chimney), `lifecycle` (with fuel supply and construction), or `upstream` (lifecycle
  without direct);
* `basis`: `production` in the zone, or `consumption` with imports.

Values with different signals are different quantities: to average, rank or add them raises `MixedSignals`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Final, Literal, NamedTuple

from carbon_otel.provenance import Band

Kind = Literal["average", "marginal", "residual"]
Accounting = Literal["location", "market"]
Scope = Literal["direct", "lifecycle", "upstream"]
Basis = Literal["production", "consumption"]
Quality = Literal["measured", "estimated", "forecast", "table"]
Losses = Literal["included", "excluded", "unknown"]

WORLD: Final = "WORLD"


class MixedSignals(ValueError):
    """Two intensities that are different quantities were to be averaged, ranked or added."""


class Signal(NamedTuple):
    """What a carbon intensity counts; only values with the same signal may be compared."""

    kind: Kind = "average"
    method: Accounting = "location"
    scope: Scope = "lifecycle"
    basis: Basis = "production"

    def __str__(self) -> str:
        return f"{self.kind}, {self.method}-based, {self.scope}, {self.basis}"


AVERAGE: Final = Signal()


@dataclass(frozen=True, slots=True)
class Intensity:
    """The mean carbon intensity of a zone from `start` until before `end`, with its provenance.

    Attributes:
        zone: ISO 3166 code of two letters, a zone within a country such as `CA-QC`, or `WORLD`.
        name: English name.
        g_per_kwh: grams of CO2 equivalent per kilowatt-hour.
        start: first instant that the value stands for, in UTC.
        end: first instant after it, in UTC.
        band: relative, about `g_per_kwh`.
        source: publication of the figure.
        licence: licence of the figure.
        signal: what the figure counts.
        quality: `table` for a mean of a past year, `measured` or `estimated` for an interval that is over,
            `forecast` for one that was not over.
        retrieved_at: when a provider gave the value; None for a table in this package.
        losses: whether the value has the losses of transmission and distribution in it.

    Raises:
        ValueError: for an interval without a time zone or of no length, or an intensity that is negative or not a
            number. A marginal intensity may be negative.
    """

    zone: str
    name: str
    g_per_kwh: float
    start: datetime
    end: datetime
    band: Band
    source: str
    licence: str
    signal: Signal = AVERAGE
    quality: Quality = "table"
    retrieved_at: datetime | None = None
    losses: Losses = "unknown"

    def __post_init__(self) -> None:
        if self.start.tzinfo is None or self.end.tzinfo is None or self.start >= self.end:
            raise ValueError(
                f"an intensity needs an interval with a time zone, not {self.start} to {self.end}"
            )
        if not abs(self.g_per_kwh) < float("inf") or (self.g_per_kwh < 0 and self.kind != "marginal"):
            raise ValueError(f"{self.g_per_kwh} g/kWh is no {self.kind} carbon intensity")

    @property
    def kind(self) -> Kind:
        """`average`, `marginal` or `residual`."""
        return self.signal.kind

    @property
    def year(self) -> int:
        """The year in which the interval begins."""
        return self.start.year

    def __lt__(self, other: Intensity) -> bool:
        """Whether this grid is cleaner.

        Raises:
            MixedSignals: for values of different signals.
        """
        same_signal((self, other))
        return self.g_per_kwh < other.g_per_kwh


def year_of(year: int) -> tuple[datetime, datetime]:
    """First instant of a year and of the next one, in UTC."""
    return datetime(year, 1, 1, tzinfo=timezone.utc), datetime(year + 1, 1, 1, tzinfo=timezone.utc)


def same_signal(values: Iterable[Intensity]) -> Signal:
    """The signal that all values have.

    Raises:
        MixedSignals: if two of them differ.
        ValueError: for no values.
    """
    signals = {value.signal: value for value in values}
    if not signals:
        raise ValueError("no intensities were given")
    if len(signals) > 1:
        parts = "; ".join(f"{value.zone} from {value.source}: {signal}" for signal, value in signals.items())
        raise MixedSignals(
            f"these carbon intensities are different quantities, so they cannot be combined: {parts}"
        )
    return next(iter(signals))


def mean(values: Sequence[Intensity], weights: Sequence[float] | None = None) -> float:
    """The mean in grams per kilowatt-hour, weighted by energy; without weights each value counts the same.

    Raises:
        MixedSignals: for values of different signals.
        ValueError: for no values, or weights of another number, below zero or all zero.
    """
    same_signal(values)
    by = [1.0] * len(values) if weights is None else list(weights)
    if len(by) != len(values) or min(by) < 0 or not sum(by) > 0:
        raise ValueError("give one weight of at least 0 for each intensity, and one above 0")
    return sum(value.g_per_kwh * weight for value, weight in zip(values, by, strict=True)) / sum(by)

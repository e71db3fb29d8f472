"""The provenance of a figure: its method tier and its band.

The tiers, best first. Only the `measured.*` tiers count towards `measured_fraction`.

========================  ==========================================================================
`measured.counter`        a hardware energy counter
`measured.power`          a hardware power sensor, integrated over time
`modelled.utilisation`    a power curve over the device's utilisation
`modelled.constant`       a constant power
`modelled.time_share`     a part of the energy of a stage, by the time that calls took in it
`missing`                 could be neither read nor modelled
========================  ==========================================================================
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, get_args

Method = Literal[
    "measured.counter",
    "measured.power",
    "modelled.utilisation",
    "modelled.constant",
    "modelled.time_share",
    "missing",
]
METHODS: Final[tuple[Method, ...]] = get_args(Method)
# The tier of what a remote model took elsewhere: in no footprint, and never beside the tiers above.
ESTIMATED_REMOTE: Final = "estimated.remote"
_MEASURED: Final = frozenset(method for method in METHODS if method.startswith("measured."))

Coverage = Literal["k=2", "p5-p95", "stated", "spread", "estimate"]


def is_measured(method: Method) -> bool:
    """Whether a hardware sensor measured the energy."""
    return method in _MEASURED


def combined(methods: Iterable[Method]) -> str:
    """The tiers behind a total, best first, joined by `+` (`measured.counter+modelled.constant`)."""
    present = set(methods)
    return "+".join(m for m in METHODS if m in present) or "missing"


@dataclass(frozen=True, slots=True)
class Band:
    """A relative band about a value: the truth is expected within `[low * x, high * x]`.

    `source` is the origin of the two factors, `coverage` the probability that the truth lies between them:

    * `k=2`: twice the standard uncertainty, about 95 % (GUM, JCGM 100:2008, 6.2);
    * `p5-p95`: percentiles of a population, 90 %; k = 1.64 if it is normal;
    * `stated`: limits that the manufacturer states, without a coverage;
    * `spread`: the extremes of published figures that disagree;
    * `estimate`: our choice where no figure is published.

    Bands are combined without scaling one coverage to another.
    """

    low: float
    high: float
    source: str
    coverage: Coverage = "k=2"

    def __post_init__(self) -> None:
        if not 0 <= self.low <= 1 <= self.high:
            raise ValueError(f"a band must enclose its value: low {self.low}, high {self.high}")


def quadrature(deviations: Iterable[float]) -> float:
    """Combine independent deviations (GUM, JCGM 100:2008, 5.1.2)."""
    return math.sqrt(sum(d * d for d in deviations))

"""What an advice is, in frozen words."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from carbon_otel.lifecycle.total import Total

# The four practices of Patterson et al. 2022 (arXiv 2204.05149): what is computed, on which hardware, how it is
# operated, and where and when.
Lever = Literal["model", "machine", "mechanization", "map"]
LEVERS: Final[tuple[Lever, ...]] = ("model", "machine", "mechanization", "map")
# `saves at most`: how much of it is avoidable cannot be seen from here. `costs quality`: the best result would be
# lost. `cannot be told apart`: the bands overlap, or the runs were not measured alike.
Verdict = Literal["saves", "saves at most", "costs quality", "cannot be told apart"]
# What the grams of a saving count: emissions of the energy, as logged or by the tables of `where`; embodied
# carbon; or what a marginal intensity says is avoided, which is no footprint.
Counted = Literal["operational", "embodied", "avoided"]


@dataclass(frozen=True, slots=True)
class Advice:
    """An advice computed from measured runs.

    Attributes:
        name: the kind of advice, which is that of its module.
        lever: which of the four practices it is.
        title: what to do.
        verdict: how sure the saving is.
        saved: what it would have saved, with bands (k=2). An infinite upper end is that of a lower bound.
        of: the cost of the runs, or of the part of them, that it concerns; its grams count what those of `saved`
            do, by the same tables.
        finding: what was found, in sentences.
        source: where the figures come from.
        verify: what would have to be measured to be certain.
        command: the command for that.
        counted: what the saved grams count.
    """

    name: str
    lever: Lever
    title: str
    verdict: Verdict
    saved: Total
    of: Total
    finding: tuple[str, ...]
    source: str
    verify: str
    command: str
    counted: Counted = "operational"

    def as_dict(self) -> dict[str, Any]:
        """In plain types."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class NothingFound:
    """A kind of advice that has nothing to say.

    `lacking` is whether a figure is missing; else everything was looked at, and nothing is to be saved.
    """

    name: str
    reason: str
    lacking: bool = False

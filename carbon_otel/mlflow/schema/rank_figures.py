"""The figures of each rank of a distributed training, from the contributions of the ranks to their run.

Each contribution of a rank has its own figures, in one tag, so that a run has as many as it has ranks. What is
shown of them together does not grow with their number: one sentence, and a table of a few.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from carbon_otel.footprint import Footprint
from carbon_otel.mlflow.schema import contributions, names
from carbon_otel.mlflow.schema.contributions import Contribution
from carbon_otel.quantities import duration, watt_hours
from carbon_otel.ranks import Group
from carbon_otel.records import RUN, UNATTRIBUTED, Cost

# One tag with the sentence.
TAG: Final = "carbon.ranks"
# In the text of the contribution of a rank.
_SIZE: Final = '"world_size":'
# Ranks that differ by less do not tell which of them is the slowest.
_LEAST_S: Final = 1e-4
_LEAST: Final = 0.01
_NOTHING: Final = Cost(0.0, 0.0)


class RankFigures(NamedTuple):
    """What one rank has contributed to a run, without nested runs; a rank that was started again is one.

    Attributes:
        rank: from 0 on.
        world_size: the number of ranks.
        energy_wh: watt-hours, and `emissions_g` grams of CO2 equivalent.
        samples: of training; 0 if unknown, as `steps` and `epochs`, which all ranks do together.
        train_s: seconds of training.
        step_wait_s: mean seconds for which a step has waited for the gradients of the others; None if unknown.
        final: whether it has ended in order; else its figures are a lower bound.
    """

    rank: int
    world_size: int
    energy_wh: float
    emissions_g: float
    samples: float
    steps: float
    epochs: float
    train_s: float
    step_wait_s: float | None
    final: bool


def written(group: Group, train_s: float, together: Mapping[str, float]) -> dict[str, float]:
    """The figures of this rank that its contribution has besides its sums; nothing, if it is no rank."""
    rank = group.rank
    if rank is None or not group.works_together:
        return {}
    figures = {"rank": rank.rank, "world_size": rank.world_size, "train_s": train_s, **together}
    wait_s = group.step_wait_s
    return figures if wait_s is None else {**figures, "step_wait_s": wait_s}


def of(parts: Iterable[Contribution]) -> tuple[RankFigures, ...]:
    """The figures of the ranks whose contributions these are, in the order of the ranks."""
    found: dict[int, RankFigures] = {}
    for each in parts:
        if "rank" in each.rank:
            rank = int(each.rank["rank"])
            figures = _figures(rank, each)
            found[rank] = figures if rank not in found else _together(found[rank], figures)
    return tuple(found[rank] for rank in sorted(found))


def of_tags(tags: Mapping[str, str]) -> tuple[RankFigures, ...]:
    """The same from the tags of a run."""
    # Most runs have no ranks, and their contributions need not be read again.
    has_ranks = any(_SIZE in text for name, text in tags.items() if contributions.is_part(name))
    return of(contributions.read(tags).values()) if has_ranks else ()


def of_run(footprint: Footprint) -> Footprint:
    """The footprint of a rank, in which what it uses between its stages belongs to the run."""
    costs = dict(footprint.stages)
    own, rest = costs.get(RUN, _NOTHING), costs.pop(UNATTRIBUTED, _NOTHING)
    costs[RUN] = Cost(own.energy_j + rest.energy_j, own.emissions_g + rest.emissions_g)
    made = footprint.embodied
    if made is not None:
        grams = dict(made.by_kind)
        grams[RUN] = grams.get(RUN, 0.0) + grams.pop(UNATTRIBUTED, 0.0)
        made = made._replace(by_kind=grams)
    return replace(footprint, stages=costs, embodied=made)


def slowest(ranks: Sequence[RankFigures]) -> RankFigures | None:
    """The rank that the others wait for; None if none stands out.

    All ranks take the same time for a step, since they wait for each other: the slowest waits least. Where the
    waiting is not known, it is the one that has trained for the longest time.
    """
    waits = [each.step_wait_s for each in ranks if each.step_wait_s is not None]
    if len(ranks) < 2:
        return None
    if len(waits) == len(ranks):
        stands_out = max(waits) - min(waits) > _LEAST_S
        return min(ranks, key=lambda each: each.step_wait_s or 0.0) if stands_out else None
    longest = max(ranks, key=lambda each: each.train_s)
    shortest_s = min(each.train_s for each in ranks)
    return longest if longest.train_s - shortest_s > _LEAST * longest.train_s else None


def sentence(ranks: Sequence[RankFigures]) -> str:
    """The ranks in one line, however many they are; empty without any."""
    if not ranks:
        return ""
    most, least = max(each.energy_wh for each in ranks), min(each.energy_wh for each in ranks)
    size = max(each.world_size for each in ranks)
    number = f"{size} ranks" if len(ranks) == size else f"{len(ranks)} of {size} ranks"
    line = f"{number}, {watt_hours(least)} to {watt_hours(most)} each"
    slow = slowest(ranks)
    if slow is not None:
        line += f"; rank {slow.rank} is the slowest{_reason(slow, ranks)}"
    unfinished = sum(not each.final for each in ranks)
    return f"{line}; {unfinished} not ended in order" if unfinished else line


def _reason(slow: RankFigures, ranks: Sequence[RankFigures]) -> str:
    if slow.step_wait_s is None:
        return ""
    waits = statistics.median(each.step_wait_s or 0.0 for each in ranks if each is not slow)
    return f": a step waits {duration(slow.step_wait_s)} for the others there, {duration(waits)} elsewhere"


def _figures(rank: int, contribution: Contribution) -> RankFigures:
    values, own = contribution.values, contribution.rank
    nested = names.nested_sums(values)
    return RankFigures(
        rank=rank,
        world_size=int(own.get("world_size", 0)),
        energy_wh=max(0.0, values.get(names.ENERGY_WH, 0.0) - nested[0]),
        emissions_g=max(0.0, values.get("carbon/emissions_g", 0.0) - nested[1]),
        samples=values.get(f"{names.UNITS}training/samples", 0.0),
        steps=own.get("steps", 0.0),
        epochs=own.get("epochs", 0.0),
        train_s=own.get("train_s", 0.0),
        step_wait_s=own.get("step_wait_s"),
        final=contribution.final,
    )


def _together(first: RankFigures, second: RankFigures) -> RankFigures:
    waits = [each.step_wait_s for each in (first, second) if each.step_wait_s is not None]
    return RankFigures(
        first.rank,
        max(first.world_size, second.world_size),
        first.energy_wh + second.energy_wh,
        first.emissions_g + second.emissions_g,
        first.samples + second.samples,
        first.steps + second.steps,
        first.epochs + second.epochs,
        first.train_s + second.train_s,
        max(waits, default=None),
        first.final and second.final,
    )

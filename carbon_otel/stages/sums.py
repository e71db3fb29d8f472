"""What payers with weights have paid, by one clock that runs for all of them.

The clock adds up joules per unit of weight. So entering readings costs the same for any number of payers, and a
sum has to be changed only when its weights change.

A sum and the clock that it was taken at are one tuple, replaced by one assignment, because an exception may arrive
between any two bytecodes. They are plain tuples, because each edge of a stage makes several.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import add, sub
from typing import Final

Joules = tuple[float, ...]  # one entry per device
# The weights of some payers together: the number of those with weight one, and per device the sum of the others.
Weights = tuple[int, Joules | None]
# The joules posted; the clock, which is joules per unit of weight; its sum over the devices; that in grams; the
# embodied grams posted; and those per unit of weight.
Posted = tuple[Joules, Joules, float, float, float, float]
# What some payers have paid: their weights, what was posted when the sums were taken, and joules, grams and
# embodied grams up to then.
Sum = tuple[Weights, Posted, Joules, float, float]
# Joules, grams and embodied grams.
Paid = tuple[Joules, float, float]
# A sum for a kind of stage, with the joules of all devices together.
KindSum = tuple[Weights, Posted, float, float, float]

NONE: Final[Weights] = (0, None)
ONE: Final[Weights] = (1, None)
ONE_LESS: Final[Weights] = (-1, None)
# Weights are multiples of this, so that floats add and subtract them without a rounding error.
_WEIGHT_UNIT: Final = 2.0**-40


def post(
    posted: Posted,
    totals: Sequence[float],
    weights: Weights,
    to_grams: Callable[[float], float],
    embodied_g: float = 0.0,
) -> Posted:
    """What is posted once the payers with these weights have shared all up to these totals.

    The totals are the joules of each device, and the embodied grams.
    """
    before, clock, joules, grams, embodied_before, embodied = posted
    count, others = weights
    by_weight = embodied_g - embodied_before
    if others is not None:
        each = zip(totals, before, others, strict=True)
        more = [(total - then) / (count + other) for total, then, other in each]
        by_weight /= of_time(weights)
    elif count == 1:
        more = [*map(sub, totals, before)]
    else:
        more = [(total - then) / count for total, then in zip(totals, before, strict=True)]
        by_weight /= count
    spent = sum(more)
    return (
        tuple(totals),
        tuple(map(add, clock, more)),
        joules + spent,
        grams + to_grams(spent),
        embodied_g,
        embodied + by_weight,
    )


def paid(total: Sum, posted: Posted) -> Paid:
    """Joules, grams and embodied grams of a sum up to what is posted."""
    (count, others), since, joules, grams, embodied = total
    if since is posted or (not count and others is None):
        return joules, grams, embodied
    by_weight = posted[5] - since[5]
    if others is not None:
        each = zip(posted[1], since[1], others, strict=True)
        spent = [(now - then) * (count + other) for now, then, other in each]
        grams += sum(spent) * _grams_per_joule(since, posted)
        return tuple(map(add, joules, spent)), grams, embodied + by_weight * of_time(total[0])
    if count == 1:
        more = map(sub, posted[1], since[1])
        return tuple(map(add, joules, more)), grams + (posted[3] - since[3]), embodied + by_weight
    spent = [(now - then) * count for now, then in zip(posted[1], since[1], strict=True)]
    return (
        tuple(map(add, joules, spent)),
        grams + (posted[3] - since[3]) * count,
        embodied + by_weight * count,
    )


def paid_of_kind(total: KindSum, posted: Posted) -> tuple[float, float, float]:
    """The same for a sum by kind."""
    (count, others), since, joules, grams, embodied = total
    by_weight = posted[5] - since[5]
    if others is None:
        return (
            joules + (posted[2] - since[2]) * count,
            grams + (posted[3] - since[3]) * count,
            embodied + by_weight * count,
        )
    each = zip(posted[1], since[1], others, strict=True)
    spent = sum([(now - then) * (count + other) for now, then, other in each])
    grams += spent * _grams_per_joule(since, posted)
    return joules + spent, grams, embodied + by_weight * of_time(total[0])


def of_time(weights: Weights) -> float:
    """The weight by which reserved time is shared: the mean over the devices."""
    count, others = weights
    return count + (sum(others) / len(others) if others else 0)


def added(some: Joules, more: Joules) -> Joules:
    """The sum for each device."""
    return tuple(map(add, some, more))


def together(some: Paid, more: Paid) -> Paid:
    """The sum of what was paid."""
    return added(some[0], more[0]), some[1] + more[1], some[2] + more[2]


def less(some: Paid, part: Paid) -> Paid:
    """What was paid, without a part of it."""
    return tuple(map(sub, some[0], part[0])), some[1] - part[1], some[2] - part[2]


def plus(some: Weights, more: Weights) -> Weights:
    """The weights of both together."""
    if some[1] is None and more[1] is None:
        return some[0] + more[0], None
    others = tuple(map(add, some[1], more[1])) if some[1] and more[1] else some[1] or more[1]
    return some[0] + more[0], others if others and any(others) else None


def minus(weights: Weights) -> Weights:
    """The change by payers with these weights that stop paying."""
    return -weights[0], weights[1] and tuple([-other for other in weights[1]])


def uneven(weights: Sequence[float]) -> Weights:
    """The weights of one payer, per device."""
    return 0, tuple([round(weight / _WEIGHT_UNIT) * _WEIGHT_UNIT for weight in weights])


def _grams_per_joule(since: Posted, posted: Posted) -> float:
    joules = posted[2] - since[2]
    return (posted[3] - since[3]) / joules if joules else 0.0

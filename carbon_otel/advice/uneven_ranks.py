"""Energy of the ranks of a distributed training while they wait for the slowest of them."""

from __future__ import annotations

from typing import Final

from carbon_otel.advice.amounts import counted, energy_of, part, total, whole
from carbon_otel.advice.attempts import Attempt
from carbon_otel.advice.subject import Subject
from carbon_otel.advice.words import Advice, NothingFound
from carbon_otel.mlflow.schema.rank_figures import sentence, slowest

NAME: Final = "uneven ranks"
_SHOWN: Final = 3


def look(subject: Subject) -> Advice | NothingFound:
    """Add up the waits that a rank has beyond those of the slowest one, which waits for no other."""
    distributed = [each for each in subject.attempts if len(each.entry.ranks) > 1]
    if not distributed:
        return NothingFound(NAME, "no run is a distributed training")
    uneven = [(each, wh) for each in distributed if (wh := _waiting_wh(each)) > 0]
    if not uneven:
        return NothingFound(
            NAME, f"of {counted(len(distributed), 'distributed run')}, none has a rank that is slowest"
        )
    uneven.sort(key=lambda each: each[1], reverse=True)
    return Advice(
        name=NAME,
        lever="machine",
        title="give the slowest rank less to do, or a machine like the others",
        verdict="saves at most",
        saved=total(part(attempt.entry, wh) for attempt, wh in uneven),
        of=total(whole(attempt.entry) for attempt in distributed),
        finding=(
            *(
                f"{attempt.name}: {sentence(attempt.entry.ranks)}; {energy_of(part(attempt.entry, wh))} at most"
                for attempt, wh in uneven[:_SHOWN]
            ),
            "a rank that waits draws at most its mean power",
        ),
        source="energy, steps and waits of each rank",
        verify="the same training with even ranks",
        command=subject.prove([uneven[0][0]]),
    )


def _waiting_wh(attempt: Attempt) -> float:
    """Watt-hours at the mean power of each rank, for the waits beyond those of the slowest rank."""
    ranks = attempt.entry.ranks
    slow = slowest(ranks)
    if slow is None or slow.step_wait_s is None:
        return 0.0
    spent = 0.0
    for each in ranks:
        beyond_s = ((each.step_wait_s or 0.0) - slow.step_wait_s) * each.steps
        if each.train_s > 0:
            spent += each.energy_wh * min(1.0, max(0.0, beyond_s) / each.train_s)
    return spent

"""Energy of finished runs that repeat another one: the same parameters, datasets and code."""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from carbon_otel.advice.amounts import counted, energy_of, total, whole
from carbon_otel.advice.attempts import Attempt
from carbon_otel.advice.subject import Subject
from carbon_otel.advice.words import Advice, NothingFound
from carbon_otel.lifecycle.report import INFERENCE, TRAINING

NAME: Final = "repeated runs"
_SHOWN: Final = 3


def look(subject: Subject) -> Advice | NothingFound:
    """Find runs with equal parameters, datasets and code."""
    groups: dict[object, list[Attempt]] = defaultdict(list)
    known = [
        each
        for each in subject.attempts
        if each.has_ended_well and each.params and not _has_only_served(each)
    ]
    for each in known:
        groups[frozenset(each.params.items()), each.datasets, each.code, frozenset(each.entry.stages)].append(
            each
        )
    again = [group for group in groups.values() if len(group) > 1]
    repeats = [each for group in again for each in group[1:]]
    saved = total(whole(each.entry) for each in repeats)
    if not known:
        return NothingFound(
            NAME,
            "no finished run that has trained or prepared data has parameters: mlflow.log_params(...)",
            lacking=True,
        )
    if saved.energy_wh <= 0:
        return NothingFound(
            NAME, f"of {counted(len(known), 'finished run')}, no two have the same parameters, data and code"
        )
    without_data = any(not each.datasets for each in repeats)
    doubt = "; without datasets (mlflow.log_input), their data may differ" if without_data else ""
    return Advice(
        name=NAME,
        lever="mechanization",
        title="look for a finished run with the same parameters before you train",
        verdict="saves at most",
        saved=saved,
        of=total(whole(each.entry) for group in again for each in group),
        finding=(
            f"{counted(len(repeats), 'run')} with the parameters, data and code of an earlier one{doubt}. Repeats "
            "on purpose, such as to know the spread, are no waste",
            *(_sentence(group) for group in sorted(again, key=_wasted, reverse=True)[:_SHOWN]),
        ),
        source="parameters, dataset digests and source of the runs in MLflow",
        verify="whether the runs were meant to be the same",
        command=subject.command("compare", *(each.run_id for each in max(again, key=_wasted)[:2])),
    )


def _has_only_served(attempt: Attempt) -> bool:
    """A nightly prediction has the same parameters each time."""
    return attempt.wh(INFERENCE) > 0 and attempt.wh(TRAINING) == 0


def _wasted(group: list[Attempt]) -> float:
    return sum(each.entry.energy_wh for each in group[1:])


def _sentence(group: list[Attempt]) -> str:
    first, *others = group
    names = ", ".join(each.name for each in others[:_SHOWN])
    return f"{energy_of(total(whole(each.entry) for each in others))} to repeat {first.name} by {names}"

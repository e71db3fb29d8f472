"""Energy of runs that have failed or were killed: no finished run has come of it."""

from __future__ import annotations

from typing import Final

from carbon_otel.advice.amounts import counted, energy_of, share, total, whole
from carbon_otel.advice.subject import Subject
from carbon_otel.advice.words import Advice, NothingFound

NAME: Final = "failed runs"
_FAILED: Final = frozenset({"FAILED", "KILLED"})
_SHOWN: Final = 5


def look(subject: Subject) -> Advice | NothingFound:
    """Add up the runs with the status FAILED or KILLED."""
    failed = [each for each in subject.attempts if each.entry.status in _FAILED]
    saved = total(whole(each.entry) for each in failed)
    if saved.energy_wh <= 0:
        return NothingFound(
            NAME, f"of {counted(len(subject.attempts), 'run')}, none has failed or was killed"
        )
    of = total(whole(each.entry) for each in subject.attempts)
    failed.sort(key=lambda each: each.entry.energy_wh, reverse=True)
    return Advice(
        name=NAME,
        lever="mechanization",
        title="find errors on a small part of the data first, and resume from checkpoints",
        verdict="saves at most",
        saved=saved,
        of=of,
        finding=(
            f"{len(failed)} of {counted(len(subject.attempts), 'run')} failed or killed, with "
            f"{share(saved, of):.0%} of the energy. A trial that was pruned on purpose may have the same status",
            *(
                f"{each.name}: {each.entry.status}, {energy_of(whole(each.entry))}"
                for each in failed[:_SHOWN]
            ),
        ),
        source="status of the runs in MLflow, and their energy up to the last checkpoint",
        verify="the report of the next runs: the share of those that have failed",
        command=subject.command("report", subject.name),
    )

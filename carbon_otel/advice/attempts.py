"""The runs of a ledger with what only MLflow knows of them: parameters, datasets, parents, metrics of the user."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from carbon_otel.lifecycle.entry import Entry
from carbon_otel.mlflow.schema import names

if TYPE_CHECKING:
    from mlflow.entities import Run

# Each of them is a request to the store.
MOST: Final = 500
_PARENT: Final = "mlflow.parentRunId"
# Runs of the same commit and program are runs of the same code, as far as MLflow knows.
_CODE: Final = ("mlflow.source.git.commit", "mlflow.source.name")
_OF_MLFLOW: Final = "system/"


@dataclass(frozen=True, slots=True)
class Attempt:
    """A measured run of the user.

    Attributes:
        entry: its cost, without its nested runs.
        params: its parameters.
        parent: the id of the run that it is nested in; None if there is none.
        datasets: digests of its datasets.
        code: commit and program, as far as MLflow knows them.
        metrics: the last value of each metric that the user has logged.
        start_ms, end_ms: milliseconds since the epoch; no end is known of a run that has not ended.
    """

    entry: Entry
    params: Mapping[str, str]
    parent: str | None
    datasets: frozenset[str]
    code: tuple[str, ...]
    metrics: Mapping[str, float]
    start_ms: int
    end_ms: int | None

    @property
    def name(self) -> str:
        """The name of the run, as a sentence has it."""
        return (
            f"run {self.entry.name}"
            if self.entry.name != self.entry.run_id
            else f"run {self.entry.run_id[:8]}"
        )

    @property
    def run_id(self) -> str:
        return self.entry.run_id

    @property
    def has_ended_well(self) -> bool:
        """Whether MLflow says that the run has finished."""
        return self.entry.status == "FINISHED"

    def wh(self, kind: str) -> float:
        """The watt-hours of a kind of stage."""
        cost = self.entry.stages.get(kind)
        return 0.0 if cost is None else cost.energy_wh


def attempts_of(client: Any, entries: Sequence[Entry]) -> tuple[tuple[Attempt, ...], int]:
    """The entries that are runs of the user, in the order of time, and how many were left out.

    Of very many, those with the most energy are read. Raises the errors of the store.
    """
    runs = sorted(
        (entry for entry in entries if not entry.is_window), key=lambda entry: entry.energy_wh, reverse=True
    )
    found = (_attempt(entry, client.get_run(entry.run_id)) for entry in runs[:MOST])
    return tuple(sorted(found, key=lambda each: each.start_ms)), max(0, len(runs) - MOST)


def _attempt(entry: Entry, run: Run) -> Attempt:
    tags = run.data.tags
    used = () if run.inputs is None else run.inputs.dataset_inputs
    return Attempt(
        entry=entry,
        params=dict(run.data.params),
        parent=tags.get(_PARENT),
        datasets=frozenset(each.dataset.digest for each in used),
        code=tuple(tags.get(name, "") for name in _CODE),
        metrics=dict(_of_user(run.data.metrics)),
        start_ms=entry.start_ms,
        end_ms=run.info.end_time,
    )


def _of_user(metrics: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    for name, value in metrics.items():
        if not name.startswith((names.PREFIX, _OF_MLFLOW)):
            yield name, value

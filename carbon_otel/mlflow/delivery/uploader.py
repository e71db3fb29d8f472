"""From an outbox to a tracking store: in order, in as few calls as it takes, each as often as it may need.

A point's step and time are frozen in its batch, an entry is found again by its id: what is sent twice is there
once.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from carbon_otel.guard import log_once
from carbon_otel.mlflow.delivery.description import describe
from carbon_otel.mlflow.delivery.spool import Batch, LedgerRun, Spool, Waiting
from carbon_otel.mlflow.schema import contributions, names
from carbon_otel.mlflow.schema.contributions import Contribution

# What a server takes in one call is 1000 metrics and tags, and 100 tags.
_METRICS_AT_ONCE: Final = 900
_TAGS_AT_ONCE: Final = 90
_KEPT_S: Final = 30 * 86400.0
# It will be refused however often it is sent: a run that was deleted, a value that the store does not take.
_FOR_GOOD: Final = frozenset({"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "BAD_REQUEST"})


@dataclass(frozen=True, slots=True)
class _Others:
    """What `count` other processes have used in a run; our points begin at `step`, after `last_ms`."""

    sum: Contribution = field(default_factory=lambda: contributions.total(()))
    count: int = 0
    step: int = 0
    last_ms: int = 0


class Uploader:
    """Sends what waits in outboxes for one store."""

    def __init__(
        self,
        store: Any,
        taken: Callable[[Batch], object] = lambda batch: None,
        *,
        keeps_refused: bool = False,
    ) -> None:
        """`taken` is told of each segment's last batch once the store has it, before the run is described.

        What the store refuses for good is given up. With `keeps_refused`, for what other processes have left, only
        after 30 days: another store may have come to the address of theirs.
        """
        self._store = store
        self._keeps_refused = keeps_refused
        self._taken = taken
        self._entry_runs: dict[str, str] = {}
        self._others_of: dict[str, _Others] = {}
        self._origins: dict[tuple[str | None, str | None], dict[str, str]] = {}

    def send(self, box: Spool, address: str) -> int:
        """Send what waits for this address; how many batches it was. Raises what the store does.

        A run of which the server refuses something waits with all that comes after it, and the others go on. A
        server that cannot be reached ends the call.
        """
        from mlflow.exceptions import MlflowException, RestException

        sent, refused, why = 0, set[str](), None
        while rows := box.waiting(address, but=refused):
            for group in _groups(rows):
                last = group[-1].batch
                if last.of in refused:
                    continue
                try:
                    self._write([row.batch for row in group])
                except MlflowException as error:
                    if error.error_code in _FOR_GOOD and self._keeps_refused and not _is_old(last):
                        refused.add(last.of)
                        continue
                    if error.error_code in _FOR_GOOD:
                        log_once(
                            "MLflow refused the energy of %s, which is lost: %s",
                            _what(last),
                            error.message,
                            about=last.of,
                        )
                    elif isinstance(error, RestException):
                        refused.add(last.of)
                        why = error
                        continue
                    else:
                        raise
                sent += len(group)
                box.done([row.number for row in group])
        if why is not None:
            raise why
        return sent

    def _write(self, batches: list[Batch]) -> None:
        last = batches[-1]
        if last.entry is not None:
            self._write_entry(last.entry, batches)
            return
        others = self._others(last)
        points: list[Any] = []
        values: Mapping[str, float] = {}
        for batch in batches:
            values = (
                contributions.total([others.sum, Contribution(batch.values)]).values if batch.values else {}
            )
            at_ms = max(batch.timestamp_ms, others.last_ms + 1)
            points += _points(
                {**values, **names.rates(values), **batch.gauges}, others.step + batch.step, at_ms
            )
        tags = {name: tag for batch in batches for name, tag in batch.tags.items()}
        if values:
            own = Contribution(last.values, last.hourly, others.step, last.final)
            tags |= own.tags(last.part) | _of_whole(contributions.total([others.sum, own]), others.count + 1)
        self._log(last.run_id, points, tags)
        if last.final:
            self._others_of.pop(last.part, None)
            self._taken(last)
            self._finish(last, values, tags)

    def _write_entry(self, entry: LedgerRun, batches: list[Batch]) -> None:
        from mlflow.entities import RunStatus

        last, run_id = batches[-1], self._entry_run(entry)
        points = [
            point for batch in batches for point in _points(batch.values, batch.step, batch.timestamp_ms)
        ]
        self._log(run_id, points, last.tags)
        if last.final:
            self._store.update_run_info(run_id, RunStatus.FINISHED, last.timestamp_ms, None)
            del self._entry_runs[entry.entry_id]
            self._taken(last)

    def _log(self, run_id: str, points: list[Any], tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        said = [RunTag(name, value) for name, value in tags.items()]
        none: list[Any] = []
        for metrics, some in itertools.zip_longest(
            _pieces(points, _METRICS_AT_ONCE), _pieces(said, _TAGS_AT_ONCE), fillvalue=none
        ):
            self._store.log_batch(run_id, metrics=metrics, params=[], tags=some)

    def _others(self, batch: Batch) -> _Others:
        """What other processes have used in the run, as far as it is known when this one comes to it."""
        if not batch.resumed:
            return _Others()
        known = self._others_of.get(batch.part)
        if known is None:
            data = self._store.get_run(batch.run_id).data
            found = contributions.read(data.tags)
            own = found.pop(batch.part, None)
            whole = contributions.total(found.values())
            # Sent again, a point has the step that it had.
            known = (
                _Others(whole, len(found), own.step)
                if own
                else _Others(whole, len(found), contributions.next_step(data), contributions.last_ms(data))
            )
            self._others_of[batch.part] = known
        return known

    def _finish(self, last: Batch, values: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """After a segment's end: the sums anew, if other processes have gone on meanwhile, and the description."""
        data = self._store.get_run(last.run_id).data
        found = contributions.read(data.tags)
        whole = contributions.total(found.values())
        seen_wh = data.metrics.get(names.ENERGY_WH, 0.0)
        if not math.isclose(whole.values.get(names.ENERGY_WH, 0.0), seen_wh, rel_tol=1e-12):
            values = {**whole.values, **names.rates(whole.values)}
            tags = {**tags, **_of_whole(whole, len(found))}
            at_ms = max(last.timestamp_ms, contributions.last_ms(data) + 1)
            self._log(
                last.run_id,
                _points(values, contributions.next_step(data), at_ms),
                _of_whole(whole, len(found)),
            )
        describe(self._store, last, data, values, tags)

    def _entry_run(self, entry: LedgerRun) -> str:
        """The entry's run: the one that an answer lost on its way has left, or a new one."""
        from mlflow.entities import RunTag, ViewType

        run_id = self._entry_runs.get(entry.entry_id)
        if run_id is None:
            experiment_id = self._ledger()
            wanted = f"tags.`{names.ENTRY}` = '{entry.entry_id}'"
            found = self._store.search_runs([experiment_id], wanted, ViewType.ACTIVE_ONLY, max_results=1)
            if found:
                run_id = found[0].info.run_id
            else:
                tags = {names.ENTRY: entry.entry_id, **self._origin(entry)}
                run_id = self._store.create_run(
                    experiment_id=experiment_id,
                    user_id="unknown",
                    start_time=entry.start_ms,
                    tags=[RunTag(name, value) for name, value in tags.items()],
                    run_name=entry.name,
                ).info.run_id
            self._entry_runs[entry.entry_id] = run_id
        return run_id

    def _ledger(self) -> str:
        found = self._store.get_experiment_by_name(names.LEDGER)
        if found is None:
            try:
                return str(self._store.create_experiment(names.LEDGER, None, None))
            except Exception:
                found = self._store.get_experiment_by_name(names.LEDGER)  # another process was first
                if found is None:
                    raise
        return str(found.experiment_id)

    def _origin(self, entry: LedgerRun) -> dict[str, str]:
        """Where the model that this is inference of was made: its experiment, its lineage."""
        key = entry.model_id, entry.source_run_id
        if key not in self._origins:
            self._origins[key] = self._find_origin(entry)
        return self._origins[key]

    def _find_origin(self, entry: LedgerRun) -> dict[str, str]:
        from mlflow.exceptions import MlflowException

        tags = {}
        try:
            source = entry.source_run_id
            if source is None and entry.model_id:
                source = self._store.get_logged_model(entry.model_id).source_run_id
            if source:
                run = self._store.get_run(source)
                tags[names.SOURCE_EXPERIMENT] = run.info.experiment_id
                lineage = run.data.tags.get(names.LINEAGE)
                if lineage:
                    tags[names.LINEAGE] = lineage
        except MlflowException as error:
            if error.error_code not in _FOR_GOOD:
                raise
            log_once(
                "the model of %r was not made in this store (%s): its energy is in the experiment %s, but not in "
                "the model's ledger; set lineage",
                entry.name,
                error.message,
                names.LEDGER,
                about=entry.model_id,
            )
        return tags


def _points(values: Mapping[str, float], step: int, at_ms: int) -> list[Any]:
    from mlflow.entities import Metric

    return [Metric(name, value, at_ms, names.step(name, step)) for name, value in values.items()]


def _pieces(items: list[Any], size: int) -> Iterator[list[Any]]:
    return (items[i : i + size] for i in range(0, len(items), size))


def _of_whole(whole: Contribution, count: int) -> dict[str, str]:
    """The tags that follow from a run's sums."""
    return {
        "carbon.measured_fraction": f"{names.measured_fraction(whole.values):.4f}",
        "carbon.segments": str(count),
        "carbon.status": "final" if whole.final else "running",
        names.HOURLY: whole.hourly,
    }


def store_at(uri: str) -> Any:
    """The tracking store of MLflow's client for this URI."""
    from mlflow import MlflowClient

    return MlflowClient(uri)._tracking_client.store


def _is_old(batch: Batch) -> bool:
    return time.time() - batch.timestamp_ms / 1000 > _KEPT_S


def _groups(rows: Iterable[Waiting]) -> Iterator[list[Waiting]]:
    """Batches of one segment that follow each other, as many as one call takes."""
    group: list[Waiting] = []
    metrics = 0
    for row in rows:
        size = 2 * len(row.batch.values) + len(row.batch.gauges)  # with the rates
        if group and (row.batch.segment != group[0].batch.segment or metrics + size > _METRICS_AT_ONCE):
            yield group
            group, metrics = [], 0
        group.append(row)
        metrics += size
    if group:
        yield group


def _what(batch: Batch) -> str:
    return batch.entry.name if batch.entry else f"run {batch.run_id}"

"""Uploads from a spool to a tracking store: in order, and in as few calls as possible.

The step and the time of a point are fixed in its batch, and a ledger run is identified by its entry id. Data
that is sent twice is therefore stored once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from carbon_otel import clock
from carbon_otel.guard import log_once, logger
from carbon_otel.mlflow.compat import TrackingStore
from carbon_otel.mlflow.delivery.description import described
from carbon_otel.mlflow.delivery.faults import (
    INVALID,
    Faults,
    is_ambiguous,
    is_refusal,
)
from carbon_otel.mlflow.delivery.ledger_runs import LedgerRuns
from carbon_otel.mlflow.delivery.spool import Batch, LedgerRun, Spool, Waiting
from carbon_otel.mlflow.schema import contributions, names, rank_figures
from carbon_otel.mlflow.schema.contributions import Contribution

# A server accepts 1000 metrics and tags in one call, among them 100 tags.
_METRICS_AT_ONCE: Final = 900
_TAGS_AT_ONCE: Final = 90
# A store that accepts nothing for this time is left alone; a dead server takes longer for one call.
_PATIENCE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class _Others:
    """The sum of the `count` other processes in a run. This process's points begin at `step`, after `last_ms`."""

    sum: Contribution = field(default_factory=lambda: contributions.total(()))
    count: int = 0
    step: int = 0
    last_ms: int = 0


class _Failed(NamedTuple):
    """Batches of one run that the store did not accept, with their numbers in the spool."""

    last: Batch
    numbers: Sequence[int]
    error: Exception


@dataclass(slots=True)
class _Call:
    """What has happened in one call of `send`.

    Attributes:
        sent: the number of batches that the store has accepted.
        failed: the ordering keys of the runs that it has not.
        doubtful: those since the last success, whose faults may be of the store.
        since: when the first of these was tried, in monotonic seconds.
    """

    sent: int = 0
    failed: set[str] = field(default_factory=set)
    doubtful: list[_Failed] = field(default_factory=list)
    since: float = math.inf

    def is_in_vain(self) -> bool:
        """Whether the store has accepted nothing for a while."""
        is_several = len(self.doubtful) > 1 or not self.sent
        return is_several and clock.monotonic() - self.since > _PATIENCE_S


class Uploader:
    """Sends the batches for one store."""

    def __init__(
        self,
        store: TrackingStore,
        delivered: Callable[[Batch], object] = lambda batch: None,
        may_be_over: Callable[[str], bool] = lambda run_id: True,
    ) -> None:
        """`delivered` is called with the last batch of each segment once the store has it.

        `may_be_over` says whether the process that has opened the run with this id may have ended it.
        """
        self.faults = Faults()
        self._store = store
        self._delivered = delivered
        self._may_be_over = may_be_over
        self._ledger_runs = LedgerRuns(store)
        self._others_of: dict[str, _Others] = {}
        # The runs that come last in the next call, because they failed.
        self._last: frozenset[str] = frozenset()

    def send(
        self,
        spool: Spool,
        address: str,
        urgent: Callable[[], Collection[int]] = tuple,
        most_refused: float = math.inf,
    ) -> int:
        """Send the batches for this address; returns their number. Raises the error of a store that is down.

        A run that the store does not accept is set aside, and the others continue; `faults` knows it. The call
        ends early after `most_refused` such runs. `urgent` returns the segments for which a thread waits: their
        runs come first, also if they come in during the call.
        """
        call = _Call()
        last, due = self._last, set(self.faults) - self.faults.not_due()
        while len(call.failed) < most_refused and not call.is_in_vain():
            hurried = frozenset(urgent())
            excluded = self.faults.not_due() | call.failed
            rows = spool.waiting(address, excluded | last, first=hurried)
            if not rows and not last:
                break
            if not rows:
                last = frozenset()
            for group in _groups(rows):
                if group[-1].batch.ordering_key not in call.failed:
                    self._try(spool, group, call)
                if call.is_in_vain() or not hurried.issuperset(urgent()):
                    break
        # Another order next time, since one of these runs may be the reason.
        self._last = frozenset(call.failed) if call.sent else self._last | call.failed
        if call.doubtful and not self._are_of_runs(call.doubtful, call.sent):
            raise call.doubtful[0].error
        self._set_aside(spool, call.doubtful)
        for key in due - call.failed:  # the spool has dropped its batches
            self.faults.accepted(key)
        return call.sent

    def _try(self, spool: Spool, group: Sequence[Waiting], call: _Call) -> None:
        last, numbers = group[-1].batch, [row.number for row in group]
        began = clock.monotonic()
        try:
            self._write([row.batch for row in group])
        except Exception as error:  # noqa: BLE001 - every kind of store raises its own
            call.failed.add(last.ordering_key)
            fault = _Failed(last, numbers, error)
            if is_refusal(error):
                self._set_aside(spool, [fault])
            else:
                call.doubtful.append(fault)
                call.since = min(call.since, began)
        else:
            spool.done(numbers)
            self.faults.accepted(last.ordering_key)
            # The store is up, so the faults before were of their runs.
            self._set_aside(spool, call.doubtful)
            call.sent += len(group)
            call.doubtful.clear()
            call.since = math.inf

    def _set_aside(self, spool: Spool, failed: Iterable[_Failed]) -> None:
        for batch, numbers, error in failed:
            if not self.faults.note(batch, error):
                spool.done(numbers)

    def _are_of_runs(self, doubtful: Sequence[_Failed], sent: int) -> bool:
        """Whether these last faults of a call, in which `sent` others were accepted, are not of the store."""
        if len(doubtful) == 1 and not is_ambiguous(doubtful[0].error):
            return True
        if not sent and not all(failed.last.ordering_key in self.faults for failed in doubtful):
            return False
        try:
            self._store.get_experiment_by_name(names.LEDGER)
        except Exception:  # noqa: BLE001 - every kind of store raises its own
            return False
        return True

    def _write(self, batches: list[Batch]) -> None:
        last = batches[-1]
        if last.entry is not None:
            self._write_entry(last.entry, batches)
        elif last.joined:
            self._write_part(last)
        else:
            self._write_run(last, batches)

    def _write_run(self, last: Batch, batches: list[Batch]) -> None:
        others = self._others(last)
        data = self._data_if_alone(last)
        points: list[Any] = []
        values: Mapping[str, float] = {}
        for batch in batches:
            values = (
                contributions.total([others.sum, Contribution(batch.values)]).values if batch.values else {}
            )
            at_ms = max(batch.timestamp_ms, others.last_ms + 1)
            figures = {**values, **names.rates_per_1k(values)} if batch.bars else values
            points += _points(batch.drawn({**figures, **batch.gauges}), others.step + batch.step, at_ms)
        tags = {name: tag for batch in batches for name, tag in batch.tags.items()}
        if values:
            process = last.tags.get(names.PROCESS, "")
            own = Contribution(
                last.values, last.hourly, others.step, last.final, process=process, rank=last.rank
            )
            total = contributions.total([others.sum, own])
            tags |= own.tags(last.contribution_id) | _tags_of_total(total, others.count + 1)
        if data is not None:
            efficiency, note = described(last, data, values, tags)
            points += efficiency
            tags |= note
        self._log(last.run_id, points, tags)
        if last.final:
            self._others_of.pop(last.contribution_id, None)
            self._delivered(last)
            if data is None:
                self._finish(last, values, tags)

    def _write_part(self, last: Batch) -> None:
        """Write the contribution of a process that has joined the run.

        The process that has opened the run adds it to the figures of the run; if that has ended, this does.
        """
        process = last.tags.get(names.PROCESS, "")
        own = Contribution(
            last.values, last.hourly, final=last.final, joined=True, process=process, rank=last.rank
        )
        self._log(last.run_id, [], own.tags(last.contribution_id))
        if not last.final and not self._may_be_over(last.run_id):
            return
        data = self._store.get_run(last.run_id).data
        parts = contributions.read(data.tags).values()
        openers = [part for part in parts if not part.joined]
        if openers and all(part.final for part in openers):
            total = contributions.total(parts)
            at_ms = max(last.timestamp_ms, contributions.last_ms(data) + 1)
            values = {**total.values, **names.rates_per_1k(total.values)}
            points = _points(values, contributions.next_step(data), at_ms)
            tags = _tags_of_total(total, len(parts)) | _tags_of_ranks(parts)
            efficiency, note = described(last, data, values, {**data.tags, **tags})
            self._log(last.run_id, points + efficiency, tags | note)

    def _data_if_alone(self, last: Batch) -> Any | None:
        """The data of a run before its last batch, if no process other than this one wrote to it; else None.

        The sums are then final, and the description can be written in the same call.
        """
        if not last.final or last.resumed:
            return None
        data = self._store.get_run(last.run_id).data
        return data if contributions.read(data.tags).keys() <= {last.contribution_id} else None

    def _write_entry(self, entry: LedgerRun, batches: list[Batch]) -> None:
        from mlflow.entities import RunStatus

        last, run_id = batches[-1], self._ledger_runs.run_id(entry)
        points = [
            point
            for batch in batches
            for point in _points(batch.drawn(batch.values), batch.step, batch.timestamp_ms)
        ]
        try:
            self._log(run_id, points, last.tags)
        except Exception:
            self._ledger_runs.forget(entry)  # it may have been deleted: the next try looks for it again
            raise
        if last.final:
            self._store.update_run_info(run_id, RunStatus.FINISHED, last.timestamp_ms, None)
            self._ledger_runs.forget(entry)
            self._delivered(last)

    def _log(self, run_id: str, points: list[Any], tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        run_tags = [RunTag(name, value) for name, value in tags.items()]
        empty: list[Any] = []
        for metrics, some_tags in itertools.zip_longest(
            _pieces(points, _METRICS_AT_ONCE), _pieces(run_tags, _TAGS_AT_ONCE), fillvalue=empty
        ):
            if not self._is_accepted(run_id, metrics + some_tags):
                # An empty call raises if the run itself is refused.
                self._store.log_batch(run_id, metrics=[], params=[], tags=[])
                self._log_halves(run_id, metrics + some_tags)

    def _log_halves(self, run_id: str, items: list[Any]) -> None:
        """After a refusal of these metrics and tags: find the refused ones, and write the others."""
        if len(items) == 1:
            name = items[0].key
            log_once("MLflow refused %r of run %s; it is lost", name, run_id, about=(run_id, name))
            return
        middle = len(items) // 2
        for half in (items[:middle], items[middle:]):
            if not self._is_accepted(run_id, half):
                self._log_halves(run_id, half)

    def _is_accepted(self, run_id: str, items: list[Any]) -> bool:
        """Write metrics and tags; False if the store refuses one of them. Raises other errors of the store."""
        from mlflow.entities import RunTag
        from mlflow.exceptions import MlflowException

        tags = [item for item in items if isinstance(item, RunTag)]
        metrics = [item for item in items if not isinstance(item, RunTag)]
        try:
            self._store.log_batch(run_id, metrics=metrics, params=[], tags=tags)
        except MlflowException as error:
            if error.error_code not in INVALID:
                raise
            logger.debug("run %s: %s", run_id, error)
            return False
        return True

    def _others(self, batch: Batch) -> _Others:
        """The sum of the other processes in the run, as it was before the first batch of this process."""
        if not batch.resumed:
            return _Others()
        known = self._others_of.get(batch.contribution_id)
        if known is None:
            data = self._store.get_run(batch.run_id).data
            by_process = contributions.read(data.tags)
            own = by_process.pop(batch.contribution_id, None)
            total, count = contributions.total(by_process.values()), len(by_process)
            # A point that is sent again must have the same step.
            known = (
                _Others(total, count, own.step)
                if own
                else _Others(total, count, contributions.next_step(data), contributions.last_ms(data))
            )
            self._others_of[batch.contribution_id] = known
        return known

    def _finish(self, last: Batch, values: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Correct the sums of a shared run if other processes have written since, and describe the run."""
        data = self._store.get_run(last.run_id).data
        by_process = contributions.read(data.tags)
        total = contributions.total(by_process.values())
        seen_wh = data.metrics.get(names.ENERGY_WH, 0.0)
        points: list[Any] = []
        corrected: dict[str, str] = {}
        if not math.isclose(total.values.get(names.ENERGY_WH, 0.0), seen_wh, rel_tol=1e-12):
            values = {**total.values, **names.rates_per_1k(total.values)}
            at_ms = max(last.timestamp_ms, contributions.last_ms(data) + 1)
            points = _points(values, contributions.next_step(data), at_ms)
        if points or not total.final:
            corrected = _tags_of_total(total, len(by_process))
        corrected |= _tags_of_ranks(by_process.values())
        efficiency, note = described(last, data, values, {**tags, **corrected})
        if points or efficiency or corrected or note:
            self._log(last.run_id, points + efficiency, corrected | note)


def _points(values: Mapping[str, float], step: int, at_ms: int) -> list[Any]:
    from mlflow.entities import Metric

    return [Metric(name, value, at_ms, names.step(name, step)) for name, value in values.items()]


def _pieces(items: list[Any], size: int) -> Iterator[list[Any]]:
    return (items[i : i + size] for i in range(0, len(items), size))


def _tags_of_total(total: Contribution, count: int) -> dict[str, str]:
    """The tags that depend on the sums of a run."""
    return {
        "carbon.measured_fraction": f"{names.measured_fraction(total.values):.4f}",
        "carbon.segments": str(count),
        "carbon.status": "final" if total.final else "running",
        names.HOURLY: total.hourly,
    }


def _tags_of_ranks(parts: Iterable[Contribution]) -> dict[str, str]:
    line = rank_figures.sentence(rank_figures.of(parts))
    return {rank_figures.TAG: line} if line else {}


def _groups(rows: Iterable[Waiting]) -> Iterator[list[Waiting]]:
    """The batches run by run: successive batches of one segment, as many as fit in one call."""
    by_run: dict[str, list[Waiting]] = {}
    for row in rows:
        by_run.setdefault(row.batch.ordering_key, []).append(row)
    group: list[Waiting] = []
    metrics = 0
    for row in itertools.chain.from_iterable(by_run.values()):
        size = 2 * len(row.batch.values) + len(row.batch.gauges)  # with the rates
        if group and (row.batch.segment != group[0].batch.segment or metrics + size > _METRICS_AT_ONCE):
            yield group
            group, metrics = [], 0
        group.append(row)
        metrics += size
    if group:
        yield group

"""Uploads from a spool to a tracking store: in order, and in as few calls as possible.

The step and the time of a point are fixed in its batch, and a ledger run is identified by its entry id. Data
that is sent twice is therefore stored once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from carbon_otel.mlflow.delivery.groups import METRICS_AT_ONCE, TAGS_AT_ONCE, groups, pieces
from carbon_otel.mlflow.delivery.ledger_runs import LedgerRuns
from carbon_otel.mlflow.delivery.metric_files import write_first
from carbon_otel.mlflow.delivery.spool import Batch, LedgerRun, Spool, Waiting
from carbon_otel.mlflow.schema import contributions, metric_points, names, pages, places, rank_figures
from carbon_otel.mlflow.schema.contributions import Contribution
from carbon_otel.units import KILO

# A store that accepts nothing for this time is left alone; a dead server takes longer for one call.
_PATIENCE_S: Final = 1.0
# These tags of a run are of the whole, or have a place of their own in a contribution.
_NOT_OF_A_PART: Final = frozenset(
    {
        names.PROCESS,
        "carbon.status",
        names.LINEAGE,
        names.FORECAST,
        names.FORECAST_SUBJECT,
        "carbon.trace_url",
    }
)
# A process that ends looks no more often for what others have written to its run.
_LOOKS: Final = 10


@dataclass(frozen=True, slots=True)
class _Others:
    """The sum of the other processes in a run. This process's points begin at `step`, after `last_ms`.

    The run begins at `begin_ms`, 0 if this process has begun it. Sums have a point there once `begun` has their
    name.
    """

    sum: Contribution = field(default_factory=lambda: contributions.total(()))
    step: int = 0
    last_ms: int = 0
    begin_ms: int = 0
    begun: set[str] = field(default_factory=set)


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
        *,
        of_ended: bool = False,
        is_open: Callable[[str], bool] = lambda run_id: False,
        number_of: Callable[[str, str], str] = lambda run_id, contribution_id: "",
    ) -> None:
        """`delivered` is called with the last batch of each segment once the store has it.

        `of_ended` says that the batches are of a process that has ended: of a killed one, none is final.
        `is_open` says of a run's id whether this process has still to write the last batch of that run.
        `number_of` gives the number of a part, by the ids of its run and of its contribution, if this process
        gives numbers to the parts of that run.
        """
        self.faults = Faults()
        self._of_ended = of_ended
        self._store = store
        self._delivered = delivered
        self._is_open = is_open
        self._number_of = number_of
        self._ledger_runs = LedgerRuns(store)
        # By the ids of the run and of the contribution.
        self._others_of: dict[tuple[str, str], _Others] = {}
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
            for group in groups(rows):
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
            drawn = batch.drawn({**values, **names.rates_per_1k(values), **batch.gauges})
            begin_ms = others.begin_ms or batch.begin_ms
            points += metric_points.new(drawn, others.step + batch.step, at_ms, begin_ms, others.begun)
        provenance = {name: tag for batch in batches for name, tag in batch.tags.items()}
        own = _contribution(last, provenance, others.step)
        tags = pages.tags(provenance) | own.written(last.contribution_id)
        total = contributions.total([others.sum, own])
        sums = _tags_of_total(total) if values else {}
        if data is not None:
            whole = contributions.provenance([own], {**provenance, **sums})
            efficiency, note = described(last, data, values, whole)
            points += efficiency
            tags |= note
        self._log(last.run_id, points, tags | sums)
        if last.final:
            self._others_of.pop((last.run_id, last.contribution_id), None)
            self._delivered(last)
        if data is None and (last.final or (self._of_ended and last.resumed)):
            self._finish(last)

    def _write_part(self, last: Batch) -> None:
        """Write the contribution of a process that has joined the run.

        The process that has opened the run adds it to the figures of the run with its last batch. After that, this
        does with the last batch of a part: also with one that is not final, if its process has been killed.
        """
        number = self._number_of(last.run_id, last.contribution_id)
        self._log(last.run_id, [], _contribution(last, last.tags, 0).written(last.contribution_id, number))
        if self._is_open(last.run_id) or not (last.final or self._of_ended):
            return
        parts = contributions.read(self._store.get_run(last.run_id).data.tags).values()
        openers = [part for part in parts if not part.joined]
        if openers and all(part.final for part in openers):
            self._finish(last)

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
            for point in metric_points.new(
                batch.drawn(batch.values), batch.step, batch.timestamp_ms, 0, set()
            )
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
            pieces(points, METRICS_AT_ONCE), pieces(run_tags, TAGS_AT_ONCE), fillvalue=empty
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
            metrics = write_first(self._store, run_id, metrics)
            self._store.log_batch(run_id, metrics=metrics, params=[], tags=tags)
        except MlflowException as error:
            if error.error_code not in INVALID:
                raise
            logger.debug("run %s: %s", run_id, error)
            return False
        return True

    def _others(self, batch: Batch) -> _Others:
        """The sum of the other processes in the run, as it was before the first batch of this process."""
        key = batch.run_id, batch.contribution_id
        if not batch.resumed:
            return self._others_of.setdefault(key, _Others())
        known = self._others_of.get(key)
        if known is None:
            run = self._store.get_run(batch.run_id)
            by_process = contributions.read(run.data.tags)
            own = by_process.pop(batch.contribution_id, None)
            total = contributions.total(by_process.values())
            # A point that is sent again must have the same step.
            step, last_ms = (
                (own.step, 0)
                if own is not None and own.readable
                else (contributions.next_step(run.data), contributions.last_ms(run.data))
            )
            begun = {point.key for point in metric_points.of(run.data)}
            known = _Others(total, step, last_ms, run.info.start_time or 0, begun)
            self._others_of[key] = known
        return known

    def _finish(self, last: Batch) -> None:
        """Let the figures of a run be the sum of all that its processes have written, and describe the run.

        Others may write at the same time, so whoever has written looks again: the last one has then seen them all.
        """
        for _ in range(_LOOKS):
            run = self._store.get_run(last.run_id)
            data = run.data
            by_process = contributions.read(data.tags)
            # In one order, since the order of the tags may change the last digit.
            parts = [part for _, part in sorted(by_process.items())]
            total = contributions.total(parts)
            values = {**total.values, **names.rates_per_1k(total.values)}
            at_ms = max(last.timestamp_ms, contributions.last_ms(data) + 1)
            points: list[Any] = []
            seen_wh = data.metrics.get(names.ENERGY_WH, 0.0)
            if not math.isclose(total.values.get(names.ENERGY_WH, 0.0), seen_wh, rel_tol=1e-12):
                begun = {point.key for point in metric_points.of(data)}
                step = contributions.next_step(data)
                points = metric_points.new(values, step, at_ms, run.info.start_time or 0, begun)
            sums = _tags_of_total(total) | _tags_of_ranks(parts)
            whole = contributions.provenance(parts, {**data.tags, **sums})
            efficiency, note = described(replace(last, timestamp_ms=at_ms), data, values, whole)
            points += [point for point in efficiency if data.metrics.get(point.key) != point.value]
            told = pages.tags(whole) | note
            changed = {name: tag for name, tag in told.items() if data.tags.get(name, "") != tag}
            if not points and not changed:
                return
            self._log(last.run_id, points, changed)


def _contribution(batch: Batch, provenance: Mapping[str, str], step: int) -> Contribution:
    """What this state adds to its run, with its provenance."""
    return Contribution(
        batch.values,
        batch.hourly,
        step,
        batch.final,
        batch.joined,
        provenance.get(names.PROCESS, ""),
        batch.rank,
        {name: tag for name, tag in provenance.items() if name not in _NOT_OF_A_PART},
        {name: value for name, value in batch.gauges.items() if not names.is_curve(name)},
        places.parsed(list(batch.places)) or (),
    )


def _tags_of_total(total: Contribution) -> dict[str, str]:
    """The tags that depend on the sums of a run."""
    return {
        "carbon.measured_fraction": f"{names.measured_fraction(total.values):.4f}",
        "carbon.status": "final" if total.final else "running",
        pages.ENERGY_KWH: f"{total.values.get(names.ENERGY_WH, 0.0) / KILO:.6g}",
        pages.EMISSIONS_KG: f"{total.values.get(names.EMISSIONS_G, 0.0) / KILO:.6g}",
    }


def _tags_of_ranks(parts: Iterable[Contribution]) -> dict[str, str]:
    line = rank_figures.sentence(rank_figures.of(parts))
    return {rank_figures.TAG: line} if line else {}

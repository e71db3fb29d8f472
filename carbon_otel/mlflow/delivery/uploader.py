"""Uploads from a spool to a tracking store: in order, and in as few calls as possible.

The step and the time of a point are fixed in its batch, and a ledger run is identified by its entry id. Data
that is sent twice is therefore stored once.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from carbon_otel.guard import log_once, logger
from carbon_otel.mlflow.compat import TrackingStore
from carbon_otel.mlflow.delivery import store_uri
from carbon_otel.mlflow.delivery.description import described
from carbon_otel.mlflow.delivery.spool import Batch, LedgerRun, Spool, Waiting
from carbon_otel.mlflow.schema import checked, contributions, names
from carbon_otel.mlflow.schema.contributions import Contribution
from carbon_otel.units import MS_PER_S

# A server accepts 1000 metrics and tags in one call, among them 100 tags.
_METRICS_AT_ONCE: Final = 900
_TAGS_AT_ONCE: Final = 90
_KEPT_S: Final = 30 * 86400.0
_INVALID: Final = frozenset({"INVALID_PARAMETER_VALUE", "BAD_REQUEST"})
# A retry would be refused too: the run was deleted, or the store does not accept a value.
_REFUSED_PERMANENTLY: Final = _INVALID | {"RESOURCE_DOES_NOT_EXIST"}


@dataclass(frozen=True, slots=True)
class _Others:
    """The sum of the `count` other processes in a run. This process's points begin at `step`, after `last_ms`."""

    sum: Contribution = field(default_factory=lambda: contributions.total(()))
    count: int = 0
    step: int = 0
    last_ms: int = 0


class Uploader:
    """Sends the batches for one store."""

    def __init__(
        self,
        store: TrackingStore,
        delivered: Callable[[Batch], object] = lambda batch: None,
        *,
        keeps_refused: bool = False,
    ) -> None:
        """`delivered` is called with the last batch of each segment once the store has it.

        A batch that the store refuses permanently is dropped. With `keeps_refused`, for the batches of other
        processes, it is kept for 30 days: the address may now lead to a different store.
        """
        self._store = store
        self._keeps_refused = keeps_refused
        self._delivered = delivered
        self._entry_runs: dict[str, str] = {}
        self._others_of: dict[str, _Others] = {}
        self._origins: dict[tuple[str | None, str | None], dict[str, str]] = {}
        # The run at which the last call stopped comes last in the next call, because the fault may be in that
        # run.
        self._broke_off_at = ""

    def send(self, spool: Spool, address: str, *, raise_refusals: bool = True) -> int:
        """Send the batches for this address; returns their number. Raises the errors of the store.

        If the store refuses a batch temporarily, the later batches of that run wait, the other runs continue,
        and the refusal is raised at the end. A store that cannot be reached ends the call at once.
        """
        sent, refused, refusal = 0, set[str](), None
        last_key, self._broke_off_at = self._broke_off_at, ""
        while True:
            rows = spool.waiting(address, excluded=refused | {last_key})
            if not rows and not last_key:
                break
            if not rows:
                last_key = ""
            for group in _groups(rows):
                last = group[-1].batch
                if last.ordering_key in refused:
                    continue
                try:
                    self._write([row.batch for row in group])
                except Exception as error:
                    if _is_permanent(error) and (not self._keeps_refused or _is_old(last)):
                        message = store_uri.printable(str(error))
                        log_once(
                            "MLflow refused the figures of %s; they are lost: %s",
                            last.label,
                            message,
                            about=last.ordering_key,
                        )
                    elif _is_permanent(error):
                        refused.add(last.ordering_key)
                        continue
                    elif _is_of_this_run(error):
                        refused.add(last.ordering_key)
                        refusal = error
                        _report(last, error)
                        continue
                    else:
                        self._broke_off_at = last.ordering_key
                        raise
                sent += len(group)
                spool.done([row.number for row in group])
        if refusal is not None and raise_refusals:
            raise refusal
        return sent

    def _write(self, batches: list[Batch]) -> None:
        last = batches[-1]
        if last.entry is not None:
            self._write_entry(last.entry, batches)
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
            own = Contribution(last.values, last.hourly, others.step, last.final, process)
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

        last, run_id = batches[-1], self._entry_run(entry)
        points = [
            point
            for batch in batches
            for point in _points(batch.drawn(batch.values), batch.step, batch.timestamp_ms)
        ]
        self._log(run_id, points, last.tags)
        if last.final:
            self._store.update_run_info(run_id, RunStatus.FINISHED, last.timestamp_ms, None)
            del self._entry_runs[entry.entry_id]
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
            if error.error_code not in _INVALID:
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
            corrected = _tags_of_total(total, len(by_process))
        efficiency, note = described(last, data, values, {**tags, **corrected})
        if points or efficiency or corrected or note:
            self._log(last.run_id, points + efficiency, corrected | note)

    def _entry_run(self, entry: LedgerRun) -> str:
        """The run of a ledger entry. It is looked up first: the answer to its creation may have been lost."""
        from mlflow.entities import RunTag, ViewType

        run_id = self._entry_runs.get(entry.entry_id)
        if run_id is None:
            experiment_id = self._ledger()
            has_the_id = f"tags.`{names.ENTRY}` = '{entry.entry_id}'"
            runs = self._store.search_runs([experiment_id], has_the_id, ViewType.ACTIVE_ONLY, max_results=1)
            if runs:
                run_id = runs[0].info.run_id
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
        experiment = self._store.get_experiment_by_name(names.LEDGER)
        if experiment is None:
            try:
                return str(self._store.create_experiment(names.LEDGER, None, None))
            except Exception:
                experiment = self._store.get_experiment_by_name(
                    names.LEDGER
                )  # another process has created it
                if experiment is None:
                    raise
        return str(experiment.experiment_id)

    def _origin(self, entry: LedgerRun) -> dict[str, str]:
        """The experiment and the lineage of the run that created the entry's model."""
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
                    tags[names.LINEAGE] = lineage[: checked.LONGEST_TAG]
        except MlflowException as error:
            if error.error_code not in _REFUSED_PERMANENTLY:
                raise
            log_once(
                "the store does not know the model of %r (%s): its energy is in the experiment %s, but not in the "
                "ledger of the model; set lineage",
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


def _tags_of_total(total: Contribution, count: int) -> dict[str, str]:
    """The tags that depend on the sums of a run."""
    return {
        "carbon.measured_fraction": f"{names.measured_fraction(total.values):.4f}",
        "carbon.segments": str(count),
        "carbon.status": "final" if total.final else "running",
        names.HOURLY: total.hourly,
    }


def _is_permanent(error: Exception) -> bool:
    from mlflow.exceptions import MlflowException

    return isinstance(error, MlflowException) and error.error_code in _REFUSED_PERMANENTLY


def _is_of_this_run(error: Exception) -> bool:
    """Whether other runs may still be accepted: the server has answered, or the batch cannot be processed."""
    from mlflow.exceptions import MlflowException, RestException

    return isinstance(error, RestException) or not isinstance(error, (MlflowException, OSError))


def _report(batch: Batch, error: Exception) -> None:
    """Log a fault of one batch. The caller reports a refusal, which may concern the whole store."""
    from mlflow.exceptions import RestException

    if isinstance(error, RestException):
        logger.debug("%s is not accepted", batch.label, exc_info=error)
    else:
        message = store_uri.printable(repr(error))
        log_once("the figures of %s cannot be sent: %s", batch.label, message, about=batch.ordering_key)


def _is_old(batch: Batch) -> bool:
    return time.time() - batch.timestamp_ms / MS_PER_S > _KEPT_S


def _groups(rows: Iterable[Waiting]) -> Iterator[list[Waiting]]:
    """Successive batches of one segment, as many as fit in one call."""
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

"""The thread that writes to MLflow's tracking store, so that a slow or dead server holds up nobody.

Figures are cumulative, so of each run only the newest batch is kept until it has been written. A point's step
and timestamp are frozen with it: writing it again changes nothing.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from carbon_otel.faults import warn_once
from carbon_otel.mlflow import naming

_LONGEST_PAUSE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Batch:
    """One state of one segment of a run: `values` since this process began or resumed it.

    A resumed segment goes on from what the run has when its first batch is written.
    """

    run_id: str
    segment: int
    values: Mapping[str, float]
    tags: Mapping[str, str]
    step: int
    timestamp_ms: int
    store: Any
    resumed: bool


@dataclass(frozen=True, slots=True)
class _Base:
    """What earlier segments of a resumed run have logged."""

    values: Mapping[str, float]
    step: int
    segments: int


class Writer:
    """Writes batches in the background; `healthy` is False from a failed write to the next good one."""

    def __init__(self) -> None:
        self.healthy = True
        self._pending: dict[int, Batch] = {}
        self._bases: dict[int, _Base] = {}
        self._changed = threading.Condition()
        self._writing = False
        self._closed = False
        threading.Thread(target=self._run, name="carbon_otel mlflow", daemon=True).start()

    def put(self, batch: Batch) -> None:
        with self._changed:
            waiting = self._pending.get(batch.segment)
            if waiting is not None:
                batch = replace(batch, tags={**waiting.tags, **batch.tags})
            self._pending[batch.segment] = batch
            self._changed.notify_all()

    def wait(self, timeout_s: float, segment: int | None = None) -> bool:
        """Until this segment's batch, or every batch, is written; False if that took longer."""
        with self._changed:
            return self._changed.wait_for(lambda: self._is_written(segment), timeout_s)

    def close(self, timeout_s: float) -> None:
        """Wait for what is pending; the thread ends once it is written."""
        self.wait(timeout_s)
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _is_written(self, segment: int | None) -> bool:
        return not self._writing and not (self._pending if segment is None else segment in self._pending)

    def _run(self) -> None:
        pause_s = 1.0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._closed)
                if not self._pending:
                    return
                batches, self._pending = list(self._pending.values()), {}
                self._writing = True
            failed: list[Batch] = []
            for batch in batches:
                # A segment builds on the ones before it: until those are written, it waits.
                if batch.run_id in (other.run_id for other in failed) or not self._write(batch):
                    failed.append(batch)
            with self._changed:
                self._pending = {**{batch.segment: batch for batch in failed}, **self._pending}
                self._writing = False
                self.healthy = not failed
                self._changed.notify_all()
            if failed:
                time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S) if failed else 1.0

    def _write(self, batch: Batch) -> bool:
        entities: Any = sys.modules["mlflow.entities"]
        try:
            base = self._base(batch)
            values = {name: value + base.values.get(name, 0.0) for name, value in batch.values.items()}
            values |= naming.rates(values)
            tags = {
                **batch.tags,
                "carbon.measured_fraction": f"{naming.measured_fraction(values):.4f}",
                "carbon.segments": str(base.segments),
            }
            step = base.step + batch.step
            batch.store.log_batch(
                batch.run_id,
                metrics=[
                    entities.Metric(name, value, batch.timestamp_ms, step) for name, value in values.items()
                ],
                params=[],
                tags=[entities.RunTag(name, value) for name, value in tags.items()],
            )
        except Exception as error:  # noqa: BLE001 - whatever the store raises, the run goes on
            warn_once(
                f"mlflow:{batch.run_id}",
                f"MLflow did not take the energy of run {batch.run_id} ({type(error).__name__}: {error}); "
                "trying again in the background",
            )
            return False
        return True

    def _base(self, batch: Batch) -> _Base:
        base = self._bases.get(batch.segment)
        if base is None:
            base = _Base({}, 0, 1)
            if batch.resumed:
                data = batch.store.get_run(batch.run_id).data
                ours = [m for m in data._metric_objs if m.key.startswith(naming.PREFIX)]
                base = _Base(
                    values={m.key: m.value for m in ours},
                    step=max((m.step + 1 for m in ours), default=0),
                    segments=int(data.tags.get("carbon.segments", "0")) + 1,
                )
            self._bases[batch.segment] = base
        return base

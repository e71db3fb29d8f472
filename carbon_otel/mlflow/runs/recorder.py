"""An MLflow run as a stage: checkpoints while it runs, totals when it ends."""

from __future__ import annotations

import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from carbon_otel.background import Worker
from carbon_otel.footprint import Footprint
from carbon_otel.guard import contain, logger
from carbon_otel.meter.meter import Snapshot
from carbon_otel.mlflow.delivery.spool import Batch
from carbon_otel.mlflow.delivery.worker import DeliveryWorker
from carbon_otel.mlflow.runs.checkpoint import Point, Series
from carbon_otel.mlflow.runs.orphans import reconcile
from carbon_otel.mlflow.schema import names
from carbon_otel.sinks import Sink
from carbon_otel.stages.engine import Engine, OpenStage

# How long a run's end may wait for its totals to be written before the run is marked as ended. MLflow takes
# late writes too; a listener on the end of the run would miss them.
_END_WAIT_S: Final = 2.0


@dataclass(slots=True)
class _Run:
    stage: OpenStage
    store: Any
    resumed: bool
    due: float
    series: Series
    part: str
    step: int = 0
    final: bool = False
    inner: dict[str, OpenStage] = field(default_factory=dict)
    nested: dict[str, float] = field(default_factory=dict)
    units: dict[str, float] = field(default_factory=dict)


class RunRecorder(Sink):
    """Writes each open run's footprint at every checkpoint and at its end."""

    def __init__(
        self,
        engine: Engine,
        footprint: Callable[[OpenStage], Footprint],
        tags: Callable[[Footprint, str, OpenStage], dict[str, str]],
        writer: DeliveryWorker,
        *,
        checkpoint_s: float,
        process: str,
        efficiency_metric: str | None,
    ) -> None:
        """`tags` says where a footprint comes from; it gets the status and the stage, too. `process` tells this
        process from all others."""
        self._engine = engine
        self._footprint = footprint
        self._tags = tags
        self._writer = writer
        self._checkpoint_s = checkpoint_s
        self._process = process
        self._efficiency_metric = efficiency_metric
        self._runs: dict[str, _Run] = {}
        # What a run adds up, and the order of its states: after its last, the ticking thread writes no other.
        self._adding, self._writing = threading.Lock(), threading.Lock()
        self._reconciled = False

    def run_started(
        self, run_id: str, name: str, parent_run_id: str | None, store: Any, resumed: bool, start_ms: int
    ) -> None:
        if run_id in self._runs:
            return
        outer = self._runs.get(parent_run_id or "")
        if outer is not None and start_ms <= outer.stage.start_unix_ns // 1_000_000:
            return  # an autologged search records, when it is over, runs that began with it
        stage = self._engine.open_run(run_id, name, parent_run_id)
        if stage is not None:
            due = time.monotonic() + self._checkpoint_s
            part = uuid.uuid5(uuid.NAMESPACE_OID, f"{self._process}/{stage.sequence}").hex[:12]
            run = self._runs[run_id] = _Run(stage, store, resumed, due, Series(time.time()), part)
            outer = self._around(stage)
            if outer is not None:
                with self._adding:
                    outer.inner[run_id] = stage
            self._reconcile(run_id)
            self._write(run, "running")

    def _reconcile(self, run_id: str) -> None:
        """Once a process: end what killed processes of this host have left open, in the background."""
        client: Any = getattr(sys.modules.get("mlflow"), "MlflowClient", None)
        if self._reconciled or client is None:
            return
        self._reconciled = True
        worker = Worker("carbon_otel reconcile")
        worker.submit(lambda: _end_orphans(client, run_id))
        worker.close()

    def run_ended(self, run_id: str) -> None:
        run = self._runs.pop(run_id, None)
        if run is None:
            return
        self._end(run)
        if self._writer.healthy:
            self._writer.wait(_END_WAIT_S, run.stage.sequence)

    def tick(self, snapshot: Snapshot) -> None:
        now = time.monotonic()
        for run in list(self._runs.values()):
            if now >= run.due:
                run.due = now + self._checkpoint_s
                contain("writing a checkpoint to MLflow", self._write, None, run, "running")

    def flush(self, timeout_s: float) -> bool:
        for run in list(self._runs.values()):
            self._write(run, "running")
        return True

    def close(self, timeout_s: float) -> None:
        """The process ends with runs still open: what they cost until now is their total."""
        # The innermost first: an outer run's nested part is known when they have ended.
        for run_id, run in sorted(self._runs.items(), key=lambda item: -item[1].stage.sequence):
            self._runs.pop(run_id, None)
            contain("ending an MLflow run", self._end, None, run)

    def closed(self, stage: OpenStage, error: BaseException | None) -> None:
        run = self._runs.get(stage.run.run_id or "") if stage.run is not None else None
        if run is not None:
            units = {f"{stage.kind}/{unit}": amount for unit, amount in stage.units.items()}
            with self._adding:
                run.units = _sum(run.units, units)

    def _around(self, stage: OpenStage) -> _Run | None:
        outer = stage.parent.run if stage.parent is not None else None
        return self._runs.get(outer.run_id or "") if outer is not None else None

    def _end(self, run: _Run) -> None:
        self._engine.close(run.stage)
        outer = self._around(run.stage)
        if outer is not None:
            used = names.parts(self._footprint(run.stage))
            with self._adding:
                if outer.inner.pop(run.stage.run_id or "", None) is not None:
                    outer.nested = _sum(outer.nested, used)
        self._write(run, "final")

    def _write(self, run: _Run, status: str) -> None:
        with self._writing:
            if not run.final:
                self._put(run, status)
                run.final = status == "final"

    def _put(self, run: _Run, status: str) -> None:
        assert run.stage.run_id is not None
        footprint = self._footprint(run.stage)
        wall_s = time.time()
        # The first point of a run says that it is measured; a metric of nothing yet would be a zero.
        point = Point({}, {}, "", int(wall_s * 1000))
        if run.step or status == "final":
            with self._adding:
                nested, units, open_inside = run.nested, run.units, list(run.inner.values())
            for inner in open_inside:
                nested = _sum(nested, names.parts(self._footprint(inner)))
            point = run.series.point(footprint, nested, units, wall_s)
        self._writer.put(
            Batch(
                run_id=run.stage.run_id,
                segment=run.stage.sequence,
                values=point.values,
                tags=self._tags(footprint, status, run.stage),
                step=max(0, run.step - 1),
                timestamp_ms=point.timestamp_ms,
                contribution_id=run.part,
                gauges=point.gauges,
                hourly=point.hourly,
                resumed=run.resumed,
                final=status == "final",
                efficiency_metric=self._efficiency_metric,
            ),
            run.store,
        )
        run.step += 1


def _end_orphans(client: Any, run_id: str) -> None:
    """In the experiment of a run that begins, and on the ledger of inference."""
    try:
        experiments = [client().get_run(run_id).info.experiment_id]
        ledger = client().get_experiment_by_name(names.LEDGER)
        ended = reconcile(client(), experiments + ([ledger.experiment_id] if ledger else []))
    except Exception:  # noqa: BLE001 - a courtesy: the command does it, and says what is wrong
        logger.debug("runs of killed processes could not be looked for", exc_info=True)
        return
    if ended:
        logger.info("%d runs that had been left open by killed processes are marked as KILLED", len(ended))


def _sum(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    return {part: one.get(part, 0.0) + other.get(part, 0.0) for part in {**one, **other}}

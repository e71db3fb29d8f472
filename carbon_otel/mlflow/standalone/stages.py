"""Stages outside of runs, such as those of a cron job or a service, recorded on the ledger of their lineage.

They are recorded only with the setting `lineage`, the name of the model life to which they belong. As for
inference, their energy goes to a run in the MLflow experiment `carbon-ledger`, one per process and hour: a
service may open a thousand stages a second. Each stage counts with its exclusive energy, so a run that begins
in a stage is not counted twice.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from carbon_otel import clock
from carbon_otel.background import Worker
from carbon_otel.mlflow.delivery.segment import Segment
from carbon_otel.mlflow.delivery.spool import LedgerRun
from carbon_otel.mlflow.delivery.worker import DeliveryWorker
from carbon_otel.mlflow.runs.recorder import Tags
from carbon_otel.mlflow.standalone.inference import has_a_store
from carbon_otel.records import UNATTRIBUTED, Cost, StageInfo, StageRecord
from carbon_otel.serial import Serial
from carbon_otel.sinks import Checkpoint, Pending, Sink, StageEnd, Tick, ToFootprint, nothing_pending
from carbon_otel.units import NS_PER_MS, NS_PER_S, S_PER_H

_WINDOW_S: Final = S_PER_H


@dataclass(slots=True)
class _Window:
    """An hour of this process.

    `spent` has by kind of stage the joules of each device, then the grams; `duration_s` is the time of the ended
    outermost stages.
    """

    segment: Segment
    start_ns: int
    ends: float
    spent: dict[str, list[float]] = field(default_factory=dict)
    units: dict[str, float] = field(default_factory=dict)
    duration_s: float = 0.0


class StandaloneStages(Sink):
    """Adds up the stages that belong to no run and to no window of inference."""

    def __init__(
        self,
        worker: DeliveryWorker,
        delivery: Worker,
        devices: int,
        to_footprint: ToFootprint,
        tags: Tags,
        *,
        process: str,
        clock: Callable[[], float] = clock.monotonic,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """`process` identifies this process among all processes that write to the ledger."""
        self._worker = worker
        self._delivery = delivery
        self._devices = devices
        self._to_footprint = to_footprint
        self._tags = tags
        self._process = process
        self._clock = clock
        self._wall_ns = wall_ns
        self._window: _Window | None = None
        self._open: dict[StageInfo, float] = {}
        self._last: Checkpoint | None = None
        # All changes of the sums.
        self._changes = Serial("adding up the stages outside of runs")

    def stage_opened(self, stage: StageInfo) -> None:
        if not stage.in_record and stage.parent is None:
            self._open[stage] = self._clock()

    def energy_attributed(self, stage: StageInfo, joules: Sequence[float], grams: float) -> None:
        if not stage.in_record and stage.kind != UNATTRIBUTED:
            self._changes.run(self._add_energy, stage, joules, grams)

    def stage_closed(self, stage: StageInfo, end: StageEnd) -> None:
        if stage.parent is None:
            self._open.pop(stage, None)
        if not stage.in_record:
            self._changes.run(self._add_end, stage, end.duration_s, end.units)

    def tick(self, tick: Tick) -> None:
        if tick.checkpoint is not None:
            self._changes.run(self._checkpoint, tick.checkpoint)

    def close(self, timeout_s: float) -> Pending:
        if self._last is not None:
            self._changes.run(self._write, self._last, True)
        return nothing_pending

    def _add_energy(self, stage: StageInfo, joules: Sequence[float], grams: float) -> None:
        window = self._window or self._begin(stage)
        spent = window.spent.get(stage.kind)
        if spent is None:
            spent = window.spent[stage.kind] = [0.0] * (self._devices + 1)
        for device, amount in enumerate(joules):
            spent[device] += amount
        spent[-1] += grams

    def _add_end(self, stage: StageInfo, duration_s: float, units: Mapping[str, float]) -> None:
        window = self._window or self._begin(stage)
        if stage.parent is None:
            window.duration_s += duration_s
        for unit, amount in units.items():
            name = f"{stage.kind}/{unit}"
            window.units[name] = window.units.get(name, 0.0) + amount

    def _checkpoint(self, checkpoint: Checkpoint) -> None:
        self._last = checkpoint
        over = self._window is not None and self._clock() >= self._window.ends and not self._open
        self._write(checkpoint, over)

    def _begin(self, stage: StageInfo) -> _Window:
        # Start the thread now: none can be started at interpreter exit.
        self._delivery.submit(self._worker.begin)
        start_ns = self._wall_ns()
        ledger_run = LedgerRun(
            entry_id=str(uuid.uuid5(uuid.NAMESPACE_OID, f"{self._process}/{start_ns}/{stage.id}")),
            name=f"{stage.kind} outside of runs",
            start_ms=start_ns // NS_PER_MS,
        )
        segment = Segment(stage.id, start_ns / NS_PER_S, ledger_run=ledger_run)
        window = _Window(segment, start_ns, self._clock() + _WINDOW_S)
        self._window = window
        return window

    def _write(self, checkpoint: Checkpoint, final: bool) -> None:
        """Hand a copy of the sums to the delivery thread."""
        window = self._window
        if window is None:
            return
        now = self._clock()
        seconds = window.duration_s + sum(now - since for since in list(self._open.values()))
        make = partial(
            self._record,
            checkpoint,
            window.start_ns,
            seconds,
            {kind: tuple(spent) for kind, spent in window.spent.items()},
            dict(window.units),
        )
        put = partial(self._put, window.segment, make, self._wall_ns(), final=final)
        if final:
            self._window = None
            self._delivery.submit(put)
        else:
            self._delivery.submit_latest(self, put)

    def _record(
        self,
        checkpoint: Checkpoint,
        start_ns: int,
        seconds: float,
        spent: Mapping[str, Sequence[float]],
        units: dict[str, float],
    ) -> StageRecord:
        """The sums as one record, with the relative uncertainty of the process's figures."""
        process = checkpoint.process.record
        costs = {kind: Cost(sum(joules), grams) for kind, (*joules, grams) in spent.items()}
        grams = sum(cost.emissions_g for cost in costs.values())
        joules = [sum(each[device] for each in spent.values()) for device in range(self._devices)]
        return StageRecord(
            kind="standalone",
            name="stages outside of runs",
            start_unix_ns=start_ns,
            duration_s=seconds,
            devices=tuple(d.portion(j) for d, j in zip(process.devices, joules, strict=True)),
            exclusive_g=grams,
            inclusive_g=grams,
            units=units,
            by_kind=costs,
            shares=process.shares,
        )

    def _put(self, segment: Segment, make: Callable[[], StageRecord], wall_ns: int, *, final: bool) -> None:
        if segment.ended or not has_a_store():
            return
        footprint = self._to_footprint(make())
        if math.isfinite(footprint.energy_j):
            tags = self._tags(footprint, "final" if final else "running", None)
            batch = segment.state(footprint, tags, wall_ns / NS_PER_S, units=footprint.units, final=final)
            self._worker.put(batch)

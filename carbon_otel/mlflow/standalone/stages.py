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
from carbon_otel.mlflow import compat
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
    """An hour of this process, for one store.

    `spent` has by kind of stage the joules of each device, the grams and the embodied grams; `duration_s` is the
    time of the ended outermost stages. `uri` is the tracking URI, empty until the first write if none was set.
    """

    segment: Segment
    uri: str
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
        self._windows: dict[str, _Window] = {}
        # The outermost open stages: their start, and the tracking URI at that moment. It is that of the stages in
        # them, too.
        self._open: dict[StageInfo, tuple[float, str]] = {}
        self._last: Checkpoint | None = None
        # All changes of the sums.
        self._changes = Serial("adding up the stages outside of runs")

    def stage_opened(self, stage: StageInfo) -> None:
        if not stage.in_record and stage.parent is None:
            self._open[stage] = self._clock(), compat.explicit_tracking_uri()

    def energy_attributed(
        self, stage: StageInfo, joules: Sequence[float], grams: float, embodied_g: float
    ) -> None:
        if not stage.in_record and stage.kind != UNATTRIBUTED:
            self._changes.run(self._add_energy, self._uri_of(stage), stage, (*joules, grams, embodied_g))

    def stage_closed(self, stage: StageInfo, end: StageEnd) -> None:
        if not stage.in_record:
            self._changes.run(self._add_end, self._uri_of(stage), stage, end.duration_s, end.units)
        if stage.parent is None:
            self._open.pop(stage, None)

    def tick(self, tick: Tick) -> None:
        if tick.checkpoint is not None:
            self._changes.run(self._checkpoint, tick.checkpoint)

    def close(self, timeout_s: float) -> Pending:
        if self._last is not None:
            self._changes.run(self._write_all, self._last, True)
        return nothing_pending

    def _uri_of(self, stage: StageInfo) -> str:
        while stage.parent is not None:
            stage = stage.parent
        opened = self._open.get(stage)
        return opened[1] if opened is not None else compat.explicit_tracking_uri()

    def _add_energy(self, uri: str, stage: StageInfo, amounts: Sequence[float]) -> None:
        window = self._windows.get(uri) or self._begin(uri, stage)
        spent = window.spent.get(stage.kind)
        if spent is None:
            spent = window.spent[stage.kind] = [0.0] * (self._devices + 2)
        for index, amount in enumerate(amounts):
            spent[index] += amount

    def _add_end(self, uri: str, stage: StageInfo, duration_s: float, units: Mapping[str, float]) -> None:
        window = self._windows.get(uri) or self._begin(uri, stage)
        if stage.parent is None:
            window.duration_s += duration_s
        for unit, amount in units.items():
            name = f"{stage.kind}/{unit}"
            window.units[name] = window.units.get(name, 0.0) + amount

    def _checkpoint(self, checkpoint: Checkpoint) -> None:
        self._last = checkpoint
        self._write_all(checkpoint, False)

    def _begin(self, uri: str, stage: StageInfo) -> _Window:
        # Start the thread now: none can be started at interpreter exit.
        self._delivery.submit(self._worker.begin)
        start_ns = self._wall_ns()
        ledger_run = LedgerRun(
            entry_id=str(uuid.uuid5(uuid.NAMESPACE_OID, f"{self._process}/{start_ns}/{stage.id}")),
            name=f"{stage.kind} outside of runs",
            start_ms=start_ns // NS_PER_MS,
        )
        now = self._clock()
        segment = Segment(stage.id, start_ns / NS_PER_S, ledger_run=ledger_run, clock_s=now)
        window = _Window(segment, uri, start_ns, now + _WINDOW_S)
        self._windows[uri] = window
        return window

    def _write_all(self, checkpoint: Checkpoint, last: bool) -> None:
        now = self._clock()
        opened = list(self._open.values())
        for uri, window in list(self._windows.items()):
            seconds = [now - since for since, its_uri in opened if its_uri == uri]
            over = last or (now >= window.ends and not seconds)
            self._write(window, checkpoint, window.duration_s + sum(seconds), over)
            if over:
                del self._windows[uri]

    def _write(self, window: _Window, checkpoint: Checkpoint, seconds: float, final: bool) -> None:
        """Hand a copy of the sums to the delivery thread."""
        make = partial(
            self._record,
            checkpoint,
            window.start_ns,
            seconds,
            {kind: tuple(spent) for kind, spent in window.spent.items()},
            dict(window.units),
        )
        put = partial(self._put, window, make, self._clock(), final=final)
        if final:
            self._delivery.submit(put)
        else:
            self._delivery.submit_latest(window.segment, put)

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
        costs = {kind: Cost(sum(joules), grams) for kind, (*joules, grams, _) in spent.items()}
        embodied = {kind: each[-1] for kind, each in spent.items()}
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
            exclusive_embodied_g=sum(embodied.values()),
            inclusive_embodied_g=sum(embodied.values()),
            embodied_by_kind=embodied,
        )

    def _put(self, window: _Window, make: Callable[[], StageRecord], now: float, *, final: bool) -> None:
        segment = window.segment
        if segment.ended or not (window.uri or has_a_store()):
            return
        window.uri = window.uri or compat.tracking_uri()
        footprint = self._to_footprint(make())
        if math.isfinite(footprint.energy_j):
            tags = self._tags(footprint, "final" if final else "running", None)
            batch = segment.state(footprint, tags, now, units=footprint.units, final=final)
            self._worker.put(batch, window.uri)

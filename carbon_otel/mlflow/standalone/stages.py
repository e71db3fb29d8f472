"""Stages outside of runs, on the ledger of their lineage: a cron job's, or a service's that has stages of its own.

Only where `lineage` says whose they are, and where the program has imported mlflow. As for inference, there is an
entry run of MLflow, in the experiment `carbon-ledger`, for each process and hour: a service may open a thousand
stages a second. Each stage counts with what it used itself, so a run that begins within one is not counted twice.
"""

from __future__ import annotations

import math
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from carbon_otel.footprint import Footprint
from carbon_otel.fork import renew_after_fork
from carbon_otel.meter.meter import Snapshot
from carbon_otel.mlflow.delivery.spool import Batch, LedgerRun
from carbon_otel.mlflow.delivery.worker import DeliveryWorker
from carbon_otel.mlflow.schema import contributions, names
from carbon_otel.mlflow.schema.contributions import Contribution
from carbon_otel.mlflow.schema.hourly import Hours
from carbon_otel.mlflow.standalone.inference import has_a_store
from carbon_otel.sinks import Sink
from carbon_otel.stages.engine import OpenStage

_WINDOW_S: Final = 3600.0


@dataclass(slots=True)
class _Window:
    """An hour of this process; `ended` is what its stages have used that have ended, `last` one of them all."""

    entry: LedgerRun
    segment: int
    last: OpenStage
    due: float
    ends: float
    wrote_s: float
    open: set[OpenStage] = field(default_factory=set)
    ended: Contribution = field(default_factory=Contribution)
    hours: Hours = field(default_factory=Hours)
    wrote_wh: float = 0.0
    step: int = 0


class StandaloneStages(Sink):
    """Adds up stages that belong to no run."""

    def __init__(
        self,
        footprint: Callable[[OpenStage], Footprint],
        tags: Callable[[Footprint, str, OpenStage], dict[str, str]],
        writer: DeliveryWorker,
        *,
        checkpoint_s: float,
        process: str,
        served: Sink,
        clock: Callable[[], float] = time.monotonic,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """`tags` says where a footprint comes from, `process` tells this process from all others; what `served`
        has marked is its own.
        """
        self._footprint = footprint
        self._tags = tags
        self._writer = writer
        self._checkpoint_s = checkpoint_s
        self._process = process
        self._served = served
        self._clock = clock
        self._wall_ns = wall_ns
        self._window: _Window | None = None
        self._lock = threading.Lock()
        renew_after_fork(self._renew)

    def _renew(self) -> None:
        """In a forked child: the thread that held the lock does not exist there."""
        self._lock = threading.Lock()

    def opened(self, stage: OpenStage) -> None:
        if stage.run is not None or "mlflow" not in sys.modules or self._is_served(stage.parent):
            return
        with self._lock:
            if self._window is None:
                self._window = self._begin(stage)
            self._window.open.add(stage)

    def closed(self, stage: OpenStage, error: BaseException | None) -> None:
        window = self._window
        if window is None or stage not in window.open:
            return
        own = self._own(stage)
        with self._lock:
            window.open.discard(stage)
            window.last = stage
            window.ended = contributions.total([window.ended, own])

    def tick(self, snapshot: Snapshot) -> None:
        now = self._clock()
        with self._lock:
            window = self._window
            over = window is not None and now >= window.ends and not window.open
            if window is not None and (over or now >= window.due):
                window.due = now + self._checkpoint_s
                self._write("final" if over else "running")

    def flush(self, timeout_s: float) -> bool:
        with self._lock:
            self._write("running")
        return True

    def close(self, timeout_s: float) -> None:
        with self._lock:
            self._write("final")

    def _is_served(self, stage: OpenStage | None) -> bool:
        while stage is not None:
            if self._served in stage.marks:
                return True
            stage = stage.parent
        return False

    def _begin(self, stage: OpenStage) -> _Window:
        self._writer.begin()
        now, start_ns = self._clock(), self._wall_ns()
        own = f"{self._process}/{start_ns}/{stage.sequence}"
        entry = LedgerRun(
            entry_id=str(uuid.uuid5(uuid.NAMESPACE_OID, own)),
            name=f"{stage.kind} outside of runs",
            start_ms=start_ns // 1_000_000,
        )
        due, ends = now + self._checkpoint_s, now + _WINDOW_S
        return _Window(entry, stage.sequence, stage, due, ends, start_ns / 1e9)

    def _own(self, stage: OpenStage) -> Contribution:
        """What a stage used itself, as the figures of a run that has it alone."""
        f = self._footprint(stage)
        if self._is_served(stage) or math.isnan(f.energy_j):
            return Contribution()
        share = f.exclusive_j / f.energy_j if f.energy_j > 0 else 0.0
        own = replace(
            f,
            energy_j=f.exclusive_j,
            emissions_g=f.exclusive_g,
            low_j=f.low_j * share,
            high_j=f.high_j * share,
            low_g=f.low_g * share,
            high_g=f.high_g * share,
            duration_s=f.duration_s if stage.parent is None else 0.0,
            devices_inclusive=f.devices,
            components={component: joules * share for component, joules in f.components.items()},
            stages={stage.kind: (f.exclusive_j, f.exclusive_g)},
        )
        return Contribution(
            names.metrics(own, units={f"{stage.kind}/{unit}": n for unit, n in stage.units.items()})
        )

    def _write(self, status: str) -> None:
        window = self._window
        if window is None:
            return
        if status == "final":
            self._window = None
        sums = contributions.total([window.ended, *map(self._own, window.open)]).values
        if sums and has_a_store():
            self._put(window, sums, status)

    def _put(self, window: _Window, sums: Mapping[str, float], status: str) -> None:
        wall_s = self._wall_ns() / 1e9
        window.hours.spend(sums[names.ENERGY_WH] - window.wrote_wh, window.wrote_s, wall_s)
        window.wrote_s, window.wrote_wh = wall_s, sums[names.ENERGY_WH]
        window.step += 1
        said = self._tags(self._footprint(window.last), status, window.last)
        values, tags = names.packed(sums, said | {names.HOURLY: window.hours.text()})
        self._writer.put(
            Batch(
                run_id="",
                segment=window.segment,
                values=values,
                tags=tags,
                step=window.step,
                timestamp_ms=int(wall_s * 1000),
                final=status == "final",
                entry=window.entry,
            )
        )

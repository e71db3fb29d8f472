"""The figures of MLflow runs: checkpoints while a run is open, totals when it ends."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from carbon_otel import clock
from carbon_otel.background import Worker
from carbon_otel.footprint import Footprint
from carbon_otel.mlflow.delivery.segment import Segment
from carbon_otel.mlflow.delivery.worker import DeliveryWorker
from carbon_otel.mlflow.schema import names
from carbon_otel.records import RUN, DeviceEnergy, StageInfo, StageRecord
from carbon_otel.sensors.base import Device
from carbon_otel.sinks import Checkpoint, Figures, Sink, StageEnd, Tick, ToFootprint
from carbon_otel.units import NS_PER_S

# The end of a run without stages that took less than this does not wait for its totals.
_EMPTY_S: Final = 1.0

# Makes the tags of a footprint from the footprint, its status and its trace id.
Tags = Callable[[Footprint, str, "str | None"], dict[str, str]]


@dataclass(frozen=True, slots=True)
class _Expected:
    store: Any
    resumed: bool


@dataclass(slots=True, eq=False)
class _Run:
    """An open run. All but `worked` is used on the delivery thread.

    Attributes:
        outer: the run that this one is nested in; if that ends first, the run around it from then on.
        inner: the open runs nested in this one.
        of_nested: the subtotals of the runs that have ended in it.
        handed: the subtotals that this run had at the end of its last `outer`, which contains them.
        units: the functional units of its stages.
        worked: tells a run with figures that a program may read at its end from an empty one.
    """

    stage: StageInfo
    store: Any
    segment: Segment
    trace_id: str | None
    outer: _Run | None = None
    inner: list[_Run] = field(default_factory=list)
    of_nested: dict[str, float] = field(default_factory=dict)
    handed: Mapping[str, float] = field(default_factory=dict)
    units: dict[str, float] = field(default_factory=dict)
    worked: bool = False


class RunRecorder(Sink):
    """Turns the figures of each open run into batches, on the delivery thread."""

    def __init__(
        self,
        worker: DeliveryWorker,
        delivery: Worker,
        devices: Sequence[Device],
        to_footprint: ToFootprint,
        tags: Tags,
        trace_id: Callable[[StageInfo], str | None],
        *,
        process: str,
        efficiency_metric: str | None,
    ) -> None:
        """`process` identifies this process among all processes that write to the run."""
        self._worker = worker
        self._delivery = delivery
        self._devices = devices
        self._to_footprint = to_footprint
        self._tags = tags
        self._trace_id = trace_id
        self._process = process
        self._efficiency_metric = efficiency_metric
        self._expected: dict[str, _Expected] = {}
        self._runs: dict[str, _Run] = {}
        self._ended: dict[str, tuple[_Run, threading.Event]] = {}

    def expect(self, run_id: str, store: Any, resumed: bool) -> None:
        """Announce that the stage of this run opens next; its figures go to `store`."""
        self._expected[run_id] = _Expected(store, resumed)

    def wait(self, run_id: str, timeout_s: float) -> None:
        """Wait until the store has the totals of a run that has ended.

        Does not wait for a run without work, or while a store is failing.
        """
        run, written = self._ended.pop(run_id, (None, None))
        if run is None or written is None or not run.worked or not self._worker.healthy:
            return
        deadline = clock.monotonic() + timeout_s
        if written.wait(timeout_s):
            self._worker.wait(max(0.0, deadline - clock.monotonic()), run.segment.number)

    def stage_opened(self, stage: StageInfo) -> None:
        if stage.kind != RUN:
            run = self._runs.get(stage.run_id or "")
            if run is not None:
                run.worked = True
            return
        run_id = stage.run_id or ""
        expected = self._expected.pop(run_id, None)
        if expected is None:
            return
        contribution_id = uuid.uuid5(uuid.NAMESPACE_OID, f"{self._process}/{stage.id}").hex[:12]
        segment = Segment(
            stage.id,
            time.time(),
            run_id=run_id,
            contribution_id=contribution_id,
            resumed=expected.resumed,
            efficiency_metric=self._efficiency_metric,
        )
        outer = self._runs.get(stage.parent.run_id or "") if stage.parent is not None else None
        run = _Run(stage, expected.store, segment, self._trace_id(stage), outer)
        self._runs[run_id] = run
        self._delivery.submit(partial(self._open, run))

    def stage_closed(self, stage: StageInfo, end: StageEnd) -> None:
        run_id = stage.run_id
        if run_id is None:
            return
        if stage.kind == RUN:
            run = self._runs.pop(run_id, None)
            if run is not None:
                run.worked |= end.duration_s > _EMPTY_S
                finish = partial(self._finish, run, end, time.time())
                self._ended[run_id] = run, self._delivery.submit(finish)
        elif end.units:
            run = self._runs.get(run_id)
            if run is not None:
                units = {f"{stage.kind}/{unit}": amount for unit, amount in end.units.items()}
                self._delivery.submit(partial(_add, run.units, units))

    def tick(self, tick: Tick) -> None:
        if tick.checkpoint is not None and self._runs:
            write = partial(self._write_open, list(self._runs.values()), tick.checkpoint)
            self._delivery.submit_latest(self, write)

    def _open(self, run: _Run) -> None:
        nothing = StageRecord(
            kind=RUN,
            name=run.stage.name,
            start_unix_ns=run.stage.start_unix_ns,
            duration_s=0.0,
            devices=tuple(DeviceEnergy(device, 0.0, 0.0) for device in self._devices),
            exclusive_g=0.0,
            inclusive_g=0.0,
        )
        while run.outer is not None and run.outer.segment.ended:
            run.outer = run.outer.outer
        if run.outer is not None:
            run.outer.inner.append(run)
        tags = self._tags(self._to_footprint(nothing), "running", run.trace_id)
        self._worker.put(run.segment.opening(tags), run.store)

    def _write_open(self, runs: Sequence[_Run], checkpoint: Checkpoint) -> None:
        for run in runs:
            # A run that has ended since has written its last state, and its outer run has its parts.
            if run.stage in checkpoint.open and not run.segment.ended:
                of_nested = {**run.of_nested}
                for inner in run.inner:
                    _add(of_nested, _since_handed(inner, checkpoint.open.get(inner.stage)))
                footprint = checkpoint.open[run.stage].footprint
                self._write(run, footprint, of_nested, checkpoint.wall_ns / NS_PER_S, final=False)

    def _finish(self, run: _Run, end: StageEnd, wall_s: float) -> None:
        for inner in run.inner:
            figures = end.below.get(inner.stage)
            _add(run.of_nested, _since_handed(inner, figures))
            inner.outer, inner.handed = run.outer, names.subtotals(figures.footprint) if figures else {}
        if run.outer is not None:
            run.outer.inner.remove(run)
            run.outer.inner += run.inner
            _add(run.outer.of_nested, _since_handed(run, end.figures))
        self._write(run, end.footprint, run.of_nested, wall_s, final=True)

    def _write(
        self, run: _Run, footprint: Footprint, of_nested: Mapping[str, float], wall_s: float, *, final: bool
    ) -> None:
        tags = self._tags(footprint, "final" if final else "running", run.trace_id)
        batch = run.segment.state(footprint, tags, wall_s, of_nested=of_nested, units=run.units, final=final)
        self._worker.put(batch, run.store)


def _since_handed(run: _Run, figures: Figures | None) -> dict[str, float]:
    """The subtotals of a run that its last outer run does not have."""
    subtotals = names.subtotals(figures.footprint) if figures is not None else {}
    return {name: value - run.handed.get(name, 0.0) for name, value in subtotals.items()}


def _add(sums: dict[str, float], more: Mapping[str, float]) -> None:
    for name, value in more.items():
        sums[name] = sums.get(name, 0.0) + value

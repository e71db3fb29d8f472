"""The figures of MLflow runs: checkpoints while a run is open, totals when it ends."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from carbon_otel import clock
from carbon_otel.background import Worker
from carbon_otel.footprint import Footprint
from carbon_otel.handover import RUN as RUN_VARIABLE
from carbon_otel.mlflow.delivery.batch import Batch
from carbon_otel.mlflow.delivery.joined_file import JoinedFiles
from carbon_otel.mlflow.delivery.segment import Segment
from carbon_otel.mlflow.delivery.worker import DeliveryWorker
from carbon_otel.mlflow.runs.recorded_run import RecordedRun, add
from carbon_otel.mlflow.schema import contributions, names, places, rank_figures
from carbon_otel.ranks import group
from carbon_otel.records import (
    RUN,
    UNATTRIBUTED,
    DeviceEnergy,
    Foresight,
    RemoteCall,
    StageInfo,
    StageRecord,
)
from carbon_otel.sensors.base import Device
from carbon_otel.sinks import Checkpoint, Killed, Sink, StageEnd, Tick, ToFootprint
from carbon_otel.units import MS_PER_S, NS_PER_S

_TRAINING: Final = "training"
# The end of a run without stages that took less than this does not wait for its totals.
_EMPTY_S: Final = 1.0

# So many runs can be resumed, or have parts, in one segment; older ones get another one.
_MOST_CREATED: Final = 100

# Makes the tags of a footprint from the footprint, its status and its trace id.
Tags = Callable[[Footprint, str, "str | None"], dict[str, str]]


@dataclass(frozen=True, slots=True)
class _Expected:
    store: Any
    resumed: bool
    age_s: float = 0.0
    joined: str | None = None


class RunRecorder(Sink):
    """Turns the figures of each open run into batches, on the delivery thread."""

    def __init__(
        self,
        worker: DeliveryWorker,
        parts: JoinedFiles,
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
        self._parts = parts
        self._delivery = delivery
        self._devices = devices
        self._to_footprint = to_footprint
        self._tags = tags
        self._trace_id = trace_id
        self._process = process
        self.efficiency_metric = efficiency_metric
        self._expected: dict[str, _Expected] = {}
        self._runs: dict[str, RecordedRun] = {}
        self._ended: dict[str, tuple[RecordedRun, threading.Event]] = {}
        # The batch that the delivery thread had not made when a wait for it was over.
        self._overdue: threading.Event | None = None
        # The segments of joined runs, and their begins: several tasks for one run are one segment.
        self._joined: dict[str, tuple[Segment, float]] = {}
        # The parts without a run, also those that have ended.
        self._unknown: dict[str, RecordedRun] = {}
        # The latest part of each run whose parts have begun without it, and the begin of the first one.
        self._bound: dict[str, tuple[RecordedRun, float]] = {}
        # Those of the latest runs that this process has created: one that is resumed here goes on in its segment.
        self._created: dict[str, tuple[RecordedRun, float]] = {}
        # Those that have begun again since the last tick.
        self._reopened: dict[str, RecordedRun] = {}

    def expect(self, run_id: str, store: Any, resumed: bool, start_ms: int = 0) -> None:
        """Announce that the stage of this run opens next; its figures go to `store`.

        `start_ms` is the start of a resumed run in milliseconds since the epoch, 0 if unknown.
        """
        age_s = time.time() - start_ms / MS_PER_S if resumed and start_ms else 0.0
        self._expected[run_id] = _Expected(store, resumed, max(0.0, age_s))

    def join(self, run_id: str, address: str) -> None:
        """Announce that the stage of a run of another process opens next, whose store has this address."""
        self._expected[run_id] = _Expected(None, True, joined=address)

    def bind(self, part_id: str, run_id: str, address: str) -> None:
        """The run of a part that has begun without one is known now, maybe after the part has ended.

        `part_id` is the id that stands for the run.
        """
        run = self._unknown.pop(part_id, None)
        if run is not None:
            self._delivery.submit(partial(self._bind, run, run_id, address))

    def may_go_on(self, part_id: str, run_id: str) -> None:
        """A part has begun without a run after one of this run, which may go on in it."""
        run = self._unknown.get(part_id)
        if run is not None:
            self._delivery.submit(partial(self._keep_open, run, run_id))

    def forget(self, part_id: str) -> None:
        """A part has ended, and is a part of no run."""
        self._unknown.pop(part_id, None)

    def wait_for_part(self, run_id: str, timeout_s: float) -> None:
        """Wait until the part of this process in a joined run is on disk."""
        _, written = self._ended.pop(run_id, (None, None))
        if written is not None:
            written.wait(timeout_s)

    def wait(self, run_id: str, timeout_s: float) -> None:
        """Wait until the store has the totals of a run that has ended.

        Does not wait for a run without work, while its store is failing, or while the disk is.
        """
        run, written = self._ended.pop(run_id, (None, None))
        if run is None or written is None or not run.worked or self._worker.is_failing(run.segment.number):
            return
        if self._overdue is not None and not self._overdue.is_set():
            return
        deadline = clock.monotonic() + timeout_s
        self._overdue = None if written.wait(timeout_s) else written
        if self._overdue is None:
            self._worker.wait(max(0.0, deadline - clock.monotonic()), run.segment.number)

    def stage_opened(self, stage: StageInfo) -> None:
        if not stage.is_run:
            run = self._runs.get(stage.run_id or "")
            if run is not None:
                run.worked = True
            return
        run_id = stage.run_id or ""
        expected = self._expected.pop(run_id, None)
        if expected is None:
            return
        outer = self._runs.get(stage.parent.run_id or "") if stage.parent is not None else None
        known, began_s = self._joined.get(run_id, (None, clock.monotonic()))
        former = None
        if expected.resumed and expected.joined is None and run_id in self._created:
            former, began_s = self._created[run_id]
            known = former.segment
        segment = known or self._segment(stage, expected)
        run = RecordedRun(
            stage, expected.store, segment, self._trace_id(stage), outer, joined=expected.joined
        )
        run.begun_here = not expected.resumed
        self._runs[run_id] = run
        if expected.joined:
            self._joined[run_id] = segment, began_s
        elif expected.joined is not None:
            self._unknown[run_id] = run
        elif run.begun_here or former is not None:
            self._created[run_id] = run, began_s
            if len(self._created) > _MOST_CREATED:
                del self._created[next(iter(self._created))]
        elapsed_s = clock.monotonic() - began_s
        if known is None:
            self._delivery.submit(partial(self._open, run))
        elif former is None:
            self._delivery.submit(partial(self._reopen, run, elapsed_s))
        else:
            self._delivery.submit(partial(self._go_on, run, former, elapsed_s))

    def _segment(self, stage: StageInfo, expected: _Expected) -> Segment:
        contribution_id = contributions.CREATOR
        if expected.resumed:
            contribution_id = uuid.uuid5(uuid.NAMESPACE_OID, f"{self._process}/{stage.id}").hex[:12]
        return Segment(
            stage.id,
            stage.start_unix_ns / NS_PER_S,
            run_id=stage.run_id or "",
            contribution_id=contribution_id,
            resumed=expected.resumed,
            efficiency_metric=self.efficiency_metric,
            joined=expected.joined is not None,
            age_s=expected.age_s,
        )

    def stage_closed(self, stage: StageInfo, end: StageEnd) -> None:
        run_id = stage.run_id
        if run_id is None:
            return
        if stage.is_run:
            run = self._runs.pop(run_id, None)
            if run is not None:
                run.worked |= end.duration_s > _EMPTY_S
                finish = partial(self._finish, run, end)
                written = self._delivery.submit(finish)
                if stage.known_run_id is not None:
                    self._ended[run_id] = run, written
        else:
            run = self._runs.get(run_id)
            if run is not None and (end.units or stage.kind == _TRAINING):
                if stage.kind == _TRAINING:
                    group.learn_step_wait()  # while its model is there
                self._delivery.submit(partial(run.count, stage, end))

    def remote_called(self, stage: StageInfo | None, call: RemoteCall) -> None:
        run = None if stage is None else self._runs.get(stage.run_id or "")
        if run is not None:
            self._delivery.submit(partial(run.add_remote, call))

    def tick(self, tick: Tick) -> None:
        if self._reopened:
            self._delivery.submit(self._mark_reopened)
        if tick.checkpoint is not None and self._runs:
            write = partial(self._write_open, list(self._runs.values()), tick.checkpoint)
            self._delivery.submit_latest(self, write)

    def foreseen(self, stage: StageInfo, foresight: Foresight) -> None:
        run = self._runs.get(stage.run_id or "") if stage.kind == RUN else None
        if run is not None and not run.joined:
            self._delivery.submit(partial(run.foresee, foresight))

    def hand_over(self, stage: StageInfo | None, variables: MutableMapping[str, str]) -> None:
        run = self._runs.get(stage.run_id or "") if stage is not None else None
        if run is not None and run.joined != "":
            variables[RUN_VARIABLE] = f"{run.run_id} {run.address}"

    def _bind(self, run: RecordedRun, run_id: str, address: str) -> None:
        self._let_go(run, run_id)
        run.joined = address
        run.__dict__.pop("address", None)
        if run.segment.ended:
            run.segment.run_id = run_id
            self._put_again(run)
            return
        former, began_s = self._bound.pop(run_id, (None, run.began_s))
        if former is not None and former.segment.ended:
            # Parts one after the other are one segment: a rank may have one for each training.
            run.segment = former.segment
            run.segment.reopen(run.began_s - began_s)
            run.train_s += former.train_s
            add(run.together, former.together)
        run.segment.run_id = run_id
        self._bound[run_id] = run, began_s
        if len(self._bound) > _MOST_CREATED:
            del self._bound[next(iter(self._bound))]
        self._put(run, self._unchanged(run))

    def _keep_open(self, run: RecordedRun, run_id: str) -> None:
        former, _ = self._bound.get(run_id, (None, 0.0))
        if former is not None and former.segment.ended:
            run.former, former.segment.ended = former, False
            self._put_again(former)

    def _let_go(self, run: RecordedRun, run_id: str = "") -> None:
        """The run of the part before has ended for this process; or it is this run, and goes on."""
        former, run.former = run.former, None
        if former is not None:
            former.segment.ended = True
            if former.run_id != run_id:
                self._put_again(former)

    def _put_again(self, run: RecordedRun) -> None:
        if run.last is not None:
            self._put(run, replace(run.last, run_id=run.run_id, final=run.segment.ended))

    def _reopen(self, run: RecordedRun, elapsed_s: float) -> None:
        run.segment.reopen(elapsed_s)
        self._reopened[run.stage.run_id or ""] = run

    def _mark_reopened(self) -> None:
        """Write at a tick that they are not final: most tasks are over before."""
        while self._reopened:
            _, run = self._reopened.popitem()
            if not run.segment.ended:
                self._put(run, self._unchanged(run))

    def _open(self, run: RecordedRun) -> None:
        self._nest(run)
        self._put(run, run.segment.opening(self._opening_tags(run)))

    def _go_on(self, run: RecordedRun, former: RecordedRun, elapsed_s: float) -> None:
        """A run that this process has created is resumed here."""
        self._nest(run)
        run.train_s, run.together = former.train_s, {**former.together}
        run.remote_tags, run.foresight_tags = {**former.remote_tags}, {**former.foresight_tags}
        run.segment.reopen(elapsed_s)
        self._put(run, run.segment.unchanged(self._opening_tags(run), run.rank()))

    def _nest(self, run: RecordedRun) -> None:
        while run.outer is not None and run.outer.segment.ended:
            run.outer = run.outer.outer
        if run.outer is not None:
            run.outer.inner.append(run)

    def _opening_tags(self, run: RecordedRun) -> dict[str, str]:
        nothing = StageRecord(
            kind=RUN,
            name=run.stage.name,
            start_unix_ns=run.stage.start_unix_ns,
            duration_s=0.0,
            devices=tuple(DeviceEnergy(device, 0.0, 0.0) for device in self._devices),
            exclusive_g=0.0,
            inclusive_g=0.0,
        )
        return self._tags_of(run, self._to_footprint(nothing), "running")

    def _write_open(self, runs: Sequence[RecordedRun], checkpoint: Checkpoint) -> None:
        for run in runs:
            # A run that has ended since has written its last state, and its outer run has its parts.
            if run.stage in checkpoint.open and not run.segment.ended:
                of_nested = {**run.of_nested}
                for inner in run.inner:
                    add(of_nested, inner.since_handed(checkpoint.open.get(inner.stage)))
                footprint = checkpoint.open[run.stage].footprint
                self._write(run, footprint, of_nested, final=False)

    def _finish(self, run: RecordedRun, end: StageEnd) -> None:
        for inner in run.inner:
            figures = end.below.get(inner.stage)
            add(run.of_nested, inner.since_handed(figures))
            inner.outer, inner.handed = run.outer, inner.latest
        if run.outer is not None:
            run.outer.inner.remove(run)
            run.outer.inner += run.inner
            add(run.outer.of_nested, run.since_handed(end.figures))
        # MLflow does not learn of a kill: its run stays RUNNING, until a later process finds it unfinished.
        is_open = isinstance(end.error, Killed) and run.joined is None
        self._write(run, end.footprint, run.of_nested, final=not is_open)
        if run.joined == "":
            self._let_go(run)

    def _write(
        self, run: RecordedRun, footprint: Footprint, of_nested: Mapping[str, float], *, final: bool
    ) -> None:
        # What a rank uses between its stages belongs to the run.
        if run.stage.kind == UNATTRIBUTED:
            footprint = rank_figures.of_run(footprint)
        tags = self._tags_of(run, footprint, "final" if final else "running")
        # The duration of a run is the time since its start on the monotonic clock.
        batch = run.segment.state(
            footprint,
            tags,
            footprint.duration_s,
            of_nested=of_nested,
            units=run.units,
            rank=run.rank(),
            remote=run.remote,
            final=final,
        )
        self._put(run, batch)

    def _tags_of(self, run: RecordedRun, footprint: Footprint, status: str) -> dict[str, str]:
        # The tags of a run say what opened it, and whether that still runs.
        if run.joined is not None:
            return {**self._own_tags(), **places.tags_of(self._tags(footprint, status, None))}
        return {**self._tags(footprint, status, run.trace_id), **run.remote_tags, **run.foresight_tags}

    def _own_tags(self) -> dict[str, str]:
        return {names.PROCESS: self._process}

    def _unchanged(self, run: RecordedRun) -> Batch:
        return run.segment.unchanged(self._own_tags(), run.rank())

    def _put(self, run: RecordedRun, batch: Batch) -> None:
        if run.joined is None:
            self._worker.put(batch, run.store)
            return
        run.last = batch
        if run.joined:
            self._parts.put(run.joined, batch)

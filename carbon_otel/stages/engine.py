"""Opens and closes stages against the meter, and tells the sinks.

Hardware is read outside the lock, the books are changed under it, the sinks are called after it is released.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Final

from carbon_otel.faults import contain
from carbon_otel.meter.meter import Meter, Reading, Track
from carbon_otel.sinks import Sink
from carbon_otel.stages.accounts import Account, Books
from carbon_otel.stages.records import AttributeValue, DeviceEnergy, Snapshot, StageRecord
from carbon_otel.stages.weights import ThreadWeights
from carbon_otel.units import S_PER_NS

UNATTRIBUTED: Final = "unattributed"
RUN: Final = "run"

current: ContextVar[OpenStage | None] = ContextVar("carbon_otel_stage", default=None)
_sequence = itertools.count()


class OpenStage:
    """One execution of a stage, from its opening to its record."""

    __slots__ = (
        "account",
        "attributes",
        "begin",
        "engine",
        "kind",
        "marks",
        "name",
        "native_thread",
        "opened_ns",
        "parent",
        "record",
        "run",
        "run_id",
        "sequence",
        "start_unix_ns",
        "thread",
        "units",
    )

    def __init__(
        self,
        engine: Engine,
        kind: str,
        name: str,
        attributes: Mapping[str, AttributeValue],
        parent: OpenStage | None,
        run_id: str | None = None,
    ) -> None:
        self.engine = engine
        self.kind = kind
        self.name = name
        self.attributes = attributes
        self.units: dict[str, float] = {}
        self.parent = parent
        self.run_id = run_id
        self.run: OpenStage | None = self if run_id else parent.run if parent else None
        self.thread = threading.get_ident()
        self.native_thread = threading.get_native_id()
        self.sequence = next(_sequence)
        self.start_unix_ns = time.time_ns()
        self.opened_ns = 0
        self.begin: tuple[_Mark, ...] = ()
        self.account: Account = engine.books.root
        self.marks: dict[object, Any] = {}
        self.record: StageRecord | None = None

    @property
    def open(self) -> bool:
        return self.record is None


# (filled_j, ambiguous_j, gap_s, joules doubtful below, above) of one device at an edge.
_Mark = tuple[float, float, float, float, float]


class Engine:
    """The open stages of one process, its meter and its sinks."""

    def __init__(
        self,
        meter: Meter,
        price: Callable[[float], float],
        sinks: Sequence[Sink] = (),
        weights: ThreadWeights | None = None,
    ) -> None:
        self.alive = True
        self.meter = meter
        self.books = Books(len(meter.tracks), price)
        self.books.root.by_kind = {}
        self.sinks: list[Sink] = list(sinks)
        self.devices = tuple(track.timeline.sensor.device for track in meter.tracks)
        self.snapshot = Snapshot(tuple((device, 0.0, 0.0) for device in self.devices))
        self.runs: dict[str, OpenStage] = {}
        self._weights = weights or ThreadWeights()
        self._open: dict[Account, OpenStage] = {}
        self._lock = threading.RLock()
        self._follow(meter.read_for_tick(meter.clock_ns()))
        meter.advance(meter.clock_ns())
        self.root = OpenStage(self, UNATTRIBUTED, UNATTRIBUTED, {}, None)
        self.root.opened_ns = meter.clock_ns()
        self.root.begin = self._marks(self.root.opened_ns)

    def open(
        self,
        kind: str,
        name: str,
        attributes: Mapping[str, AttributeValue],
        inherited: OpenStage | None = None,
    ) -> OpenStage:
        """Open a stage below the one inherited by context, or below the run it belongs to."""
        stage = OpenStage(self, kind, name, attributes, self._parent(inherited))
        return self._begin(stage)

    def open_run(self, run_id: str, name: str, parent_run_id: str | None) -> OpenStage | None:
        """Open the stage of an experiment run; None if it is open already.

        A run's place is below its parent run, or below the stage that starts it.
        """
        with self._lock:
            if run_id in self.runs:
                return None
            inherited = current.get()
            parent = self.runs.get(parent_run_id or "")
            if inherited is not None and inherited.engine is self and inherited.open:
                known = parent is None or inherited.sequence > parent.sequence
                parent = inherited if known else parent
            stage = OpenStage(self, RUN, name, {}, parent, run_id)
            self.runs[run_id] = stage
        return self._begin(stage)

    def close(self, stage: OpenStage, error: BaseException | None = None) -> StageRecord | None:
        """End a stage. Returns its record; None if it had ended before."""
        clock_ns = self.meter.clock_ns
        readings = self.meter.read_for_edge(clock_ns())
        with self._lock:
            if not stage.open:
                return None
            self._follow(readings)
            now_ns = clock_ns()
            self.books.post(self.meter.advance(now_ns))
            joules, grams = self.books.settle(stage.account)
            self.books.close(stage.account)
            self._open.pop(stage.account, None)
            if stage.run_id:
                self.runs.pop(stage.run_id, None)
            stage.record = record = self._record(stage, now_ns)
        for sink in self.sinks:
            contain(f"{type(sink).__name__}.paid", lambda s=sink: s.paid(stage, joules, grams), None)
        for sink in self.sinks:
            contain(f"{type(sink).__name__}.closed", lambda s=sink: s.closed(stage, record, error), None)
        return record

    def enter(self, stage: OpenStage) -> None:
        for sink in self.sinks:
            contain(f"{type(sink).__name__}.entered", lambda s=sink: s.entered(stage), None)

    def leave(self, stage: OpenStage) -> None:
        for sink in self.sinks:
            contain(f"{type(sink).__name__}.left", lambda s=sink: s.left(stage), None)

    def pause(self, stage: OpenStage) -> None:
        self._change(lambda: self.books.pause(stage.account))

    def resume(self, stage: OpenStage) -> None:
        self._change(lambda: self.books.resume(stage.account))

    def tick(self) -> None:
        """Read every device that is due, settle all open stages, tell the sinks."""
        readings = self.meter.read_for_tick(self.meter.clock_ns())
        with self._lock:
            self.meter.note_suspend()
            self._follow(readings)
            self.books.post(self.meter.advance(self.meter.clock_ns()))
            payments = [
                (stage, *self.books.settle(stage.account)) for stage in (self.root, *self._open.values())
            ]
            self._weigh()
            self.snapshot = Snapshot(
                tuple(
                    (device, track.timeline.published_j, track.timeline.power_w)
                    for device, track in zip(self.devices, self.meter.tracks, strict=True)
                )
            )
        for sink in self.sinks:
            for stage, joules, grams in payments:
                if any(joules):
                    contain(f"{type(sink).__name__}.paid", lambda s=sink, p=(stage, joules, grams): s.paid(*p), None)
            contain(f"{type(sink).__name__}.tick", lambda s=sink: s.tick(self.snapshot), None)

    def so_far(self, stage: OpenStage | None = None) -> StageRecord:
        """The record of an open stage as if it ended now; by default of the whole process."""
        stage = stage or self.root
        readings = self.meter.read_for_edge(self.meter.clock_ns())
        with self._lock:
            if stage.record is not None:
                return stage.record
            self._follow(readings)
            now_ns = self.meter.clock_ns()
            self.books.post(self.meter.advance(now_ns))
            self.books.settle_all(stage.account)
            return self._record(stage, now_ns)

    def close_all(self) -> None:
        """End every open stage, the innermost first."""
        with self._lock:
            stages = sorted(self._open.values(), key=lambda stage: -stage.sequence)
        for stage in stages:
            self.close(stage)
        self.tick()

    def _begin(self, stage: OpenStage) -> OpenStage:
        for sink in self.sinks:
            contain(f"{type(sink).__name__}.opened", lambda s=sink: s.opened(stage), None)
        clock_ns = self.meter.clock_ns
        readings = self.meter.read_for_edge(clock_ns())
        with self._lock:
            self._follow(readings)
            now_ns = clock_ns()
            self.books.post(self.meter.advance(now_ns))
            above = stage.parent.account if stage.parent else None
            stage.account = self.books.open(stage.kind, above, keeps_kinds=stage.run_id is not None)
            stage.opened_ns = now_ns
            stage.begin = self._marks(now_ns)
            self._open[stage.account] = stage
        return stage

    def _change(self, change: Callable[[], None]) -> None:
        readings = self.meter.read_for_edge(self.meter.clock_ns())
        with self._lock:
            self._follow(readings)
            self.books.post(self.meter.advance(self.meter.clock_ns()))
            change()

    def _follow(self, readings: Sequence[Reading]) -> None:
        self.meter.apply(readings)
        self.meter.settle_shares(self.meter.clock_ns())

    def _parent(self, inherited: OpenStage | None) -> OpenStage | None:
        """The inherited stage; the run begun in this thread since; else the only run there is."""
        if inherited is not None and (inherited.engine is not self or not inherited.open):
            inherited = None
        if not self.runs:
            return inherited
        with self._lock:
            runs = list(self.runs.values())
        thread = threading.get_ident()
        here = max((r for r in runs if r.thread == thread), key=lambda r: r.sequence, default=None)
        if inherited is not None:
            return here if here is not None and here.sequence > inherited.sequence else inherited
        if here is not None:
            return here
        outer = {r.parent.run for r in runs if r.parent is not None}
        innermost = [r for r in runs if r not in outer]
        return innermost[0] if len(innermost) == 1 else None

    def _weigh(self) -> None:
        payers = {account: self._open[account] for account in self.books.payers() if account in self._open}
        if len(payers) < 2:
            return
        by_cpu = self._weights.weigh({account: stage.native_thread for account, stage in payers.items()})
        self.books.set_weights(
            {
                account: [1.0 if device.type == "gpu" else weight for device in self.devices]
                for account, weight in (by_cpu or {}).items()
            }
        )

    def _marks(self, now_ns: int) -> tuple[_Mark, ...]:
        return tuple(
            (t.filled_j, t.ambiguous_j, t.gap_s, *t.edge_doubt(now_ns))
            for t in (track.timeline for track in self.meter.tracks)
        )

    def _record(self, stage: OpenStage, now_ns: int) -> StageRecord:
        account = stage.account
        inclusive_j, inclusive_g = self.books.inclusive(account)
        duration_s = (now_ns - stage.opened_ns) * S_PER_NS
        devices = tuple(
            _device_energy(track, stage.opened_ns, now_ns, account.paid[i], inclusive_j[i], begin, end)
            for i, (track, begin, end) in enumerate(
                zip(self.meter.tracks, stage.begin, self._marks(now_ns), strict=True)
            )
        )
        return StageRecord(
            kind=stage.kind,
            name=stage.name,
            start_unix_ns=stage.start_unix_ns,
            duration_s=duration_s,
            devices=devices,
            exclusive_g=account.grams,
            inclusive_g=inclusive_g,
            units=dict(stage.units),
            by_kind={kind: (s.joules, s.grams) for kind, s in (account.by_kind or {}).items()},
        )


def _device_energy(
    track: Track, opened_ns: int, now_ns: int, own_j: float, inclusive_j: float, begin: _Mark, end: _Mark
) -> DeviceEnergy:
    timeline, share = track.timeline, track.share
    sensor, duration_s = timeline.sensor, (now_ns - opened_ns) * S_PER_NS
    filled = min(inclusive_j, max(0.0, end[0] - begin[0]) * share)
    below, above = begin[3] + end[3], begin[4] + end[4]
    flags = {flag for flag, seen_ns in timeline.flags.items() if seen_ns >= opened_ns}
    period_s = sensor.update_period_s
    if sensor.device.method == "measured.counter" and duration_s > 0:
        # Constant power, both edges uniform within a period: sigma = P * Tu / sqrt(6).
        quantum = inclusive_j / duration_s * period_s / 6**0.5
        below, above = below + quantum, above + quantum
        if duration_s < 5 * period_s:
            flags.add("short")
    gap_s = max(0.0, end[2] - begin[2])
    if gap_s > 0:
        flags |= timeline.flags.keys() & {"gap", "stuck"}
    return DeviceEnergy(
        device=sensor.device,
        exclusive_j=own_j,
        inclusive_j=inclusive_j,
        filled_j=filled,
        below_j=min(inclusive_j, (below * share) + filled),
        above_j=(above + end[1] - begin[1]) * share + filled,
        gap_s=gap_s,
        flags=frozenset(flags),
    )

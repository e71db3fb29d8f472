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

from carbon_otel.guard import report
from carbon_otel.meter.meter import NO_EDGE, EdgeState, Meter, Readings
from carbon_otel.records import AttributeValue, StageRecord
from carbon_otel.sinks import Sink
from carbon_otel.stages.accounts import Account, Books
from carbon_otel.stages.cpu_weights import ThreadWeights
from carbon_otel.stages.uncertainty import device_energy, shares_between
from carbon_otel.units import S_PER_NS

UNATTRIBUTED: Final = "unattributed"
RUN: Final = "run"

current: ContextVar[OpenStage | None] = ContextVar("carbon_otel_stage", default=None)
_sequence = itertools.count()


class OpenStage:
    """One execution of a stage, from its opening to its record."""

    __slots__ = (
        "_record",
        "account",
        "attributes",
        "begin",
        "closed_ns",
        "end",
        "engine",
        "kind",
        "marks",
        "name",
        "native_thread",
        "opened_ns",
        "parent",
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
        self.closed_ns: int | None = None
        self.begin = self.end = NO_EDGE
        self.account: Account = engine.books.root
        self.marks: dict[object, Any] = {}
        self._record: StageRecord | None = None

    @property
    def open(self) -> bool:
        return self.closed_ns is None

    @property
    def duration_s(self) -> float:
        """Of a stage that has ended."""
        return (self.end.now_ns - self.opened_ns) * S_PER_NS

    @property
    def record(self) -> StageRecord:
        """The final record of a stage that has ended. Made when first asked for: most are not."""
        if self._record is None:
            assert self.closed_ns is not None
            account = self.account
            self._record = self.engine.describe(
                self, self.closed_ns, self.end, account.inclusive_j, account.inclusive_g
            )
        return self._record


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
        self.sinks: list[Sink] = list(sinks)
        self.devices = tuple(track.timeline.sensor.device for track in meter.tracks)
        self.snapshot = meter.snapshot()
        self._cached = (meter.clock_ns(), 0.0, 0.0)
        self.runs: dict[str, OpenStage] = {}
        self._run_ids: set[str] = set()
        self._weights = weights or ThreadWeights()
        self._open: dict[Account, OpenStage] = {}
        self._lock = threading.RLock()
        self.root = OpenStage(self, UNATTRIBUTED, UNATTRIBUTED, {}, None)
        self.root.opened_ns = meter.clock_ns()
        self._follow(meter.read_for_tick(self.root.opened_ns), self.root.opened_ns)
        self.root.begin = meter.edge(self.root.opened_ns)

    def open(
        self,
        kind: str,
        name: str,
        attributes: Mapping[str, AttributeValue],
        inherited: OpenStage | None = None,
    ) -> OpenStage:
        """Open a stage below the one inherited by context, or below the run it belongs to."""
        stage = OpenStage(self, kind, name, attributes, self.parent_of(inherited))
        return self._begin(stage)

    def open_run(self, run_id: str, name: str, parent_run_id: str | None) -> OpenStage | None:
        """Open the stage of an experiment run; None if it is open already.

        A run's place is below its parent run, or below the stage that starts it.
        """
        with self._lock:
            if run_id in self._run_ids:
                return None
            self._run_ids.add(run_id)
            inherited = current.get()
            parent = self.runs.get(parent_run_id or "")
            if inherited is not None and inherited.engine is self and inherited.open:
                known = parent is None or inherited.sequence > parent.sequence
                parent = inherited if known else parent
        return self._begin(OpenStage(self, RUN, name, {}, parent, run_id))

    def close(self, stage: OpenStage, error: BaseException | None = None) -> None:
        """End a stage; nothing, if it has ended before."""
        now_ns = self.meter.clock_ns()
        taken = self.meter.read_for_edge(now_ns)
        with self._lock:
            self._follow(taken, now_ns)
            if not stage.open:
                return
            joules, grams = self.books.close(stage.account)
            stage.end = self.meter.edge(now_ns)
            stage.closed_ns = now_ns
            self._open.pop(stage.account, None)
            if stage.run_id:
                self.runs.pop(stage.run_id, None)
                self._run_ids.discard(stage.run_id)
        self._tell("paid", stage, joules, grams)
        self._tell("closed", stage, error)

    def enter(self, stage: OpenStage) -> None:
        self._tell("entered", stage)

    def leave(self, stage: OpenStage) -> None:
        self._tell("left", stage)

    def pause(self, stage: OpenStage) -> None:
        self._change(self.books.pause, stage.account)

    def resume(self, stage: OpenStage) -> None:
        self._change(self.books.resume, stage.account)

    def tick(self) -> None:
        """Read every device that is due, settle all open stages, tell the sinks."""
        now_ns = self.meter.clock_ns()
        taken = self.meter.read_for_tick(now_ns)
        with self._lock:
            self.meter.note_suspend()
            self._follow(taken, now_ns)
            payments = [
                (stage, *self.books.settle(stage.account)) for stage in (self.root, *self._open.values())
            ]
            self._weigh()
            self.snapshot = self.meter.snapshot()
            tracks = self.meter.tracks
            watts = sum(track.share * track.timeline.power_w for track in tracks)
            self._cached = (now_ns, sum(track.own_j for track in tracks), watts)
        for payment in payments:
            if any(payment[1]):
                self._tell("paid", *payment)
        self._tell("tick", self.snapshot)

    def cached_joules(self) -> float:
        """This process's joules so far, by the power at the last tick: no reading, no lock."""
        then_ns, joules, watts = self._cached
        return joules + watts * (self.meter.clock_ns() - then_ns) * S_PER_NS

    def renew_periods(self) -> None:
        """Sensors have learnt how often their hardware renews its readings."""
        with self._lock:
            for track in self.meter.tracks:
                track.renew_period()

    def so_far(self, stage: OpenStage | None = None) -> StageRecord:
        """The record of an open stage as if it ended now; by default of the whole process."""
        stage = stage or self.root
        now_ns = self.meter.clock_ns()
        taken = self.meter.read_for_edge(now_ns)
        with self._lock:
            self._follow(taken, now_ns)
            if not stage.open:
                return stage.record
            return self.describe(stage, now_ns, self.meter.edge(now_ns), *self.books.inclusive(stage.account))

    def spent(self, stage: OpenStage) -> tuple[float, float]:
        """A stage's inclusive joules and grams by the readings so far."""
        with self._lock:
            joules, grams = self.books.inclusive(stage.account)
        return sum(joules), grams

    def close_all(self) -> None:
        """End every open stage, the innermost first."""
        with self._lock:
            stages = sorted(self._open.values(), key=lambda stage: -stage.sequence)
        for stage in stages:
            self.close(stage)
        self.tick()

    def abandon(self) -> None:
        """In a forked child: nothing opens or ends here any more, and nobody is left to release the lock."""
        self.alive = False
        self._lock = threading.RLock()

    def describe(
        self, stage: OpenStage, now_ns: int, end: EdgeState, inclusive_j: Sequence[float], inclusive_g: float
    ) -> StageRecord:
        """Put a stage's record together from its account and its two edges."""
        account = stage.account
        return StageRecord(
            kind=stage.kind,
            name=stage.name,
            start_unix_ns=stage.start_unix_ns,
            duration_s=(now_ns - stage.opened_ns) * S_PER_NS,
            devices=tuple(
                device_energy(track.timeline.sensor, i, stage.begin, end, account.paid[i], inclusive_j[i])
                for i, track in enumerate(self.meter.tracks)
            ),
            exclusive_g=account.grams,
            inclusive_g=inclusive_g,
            units=dict(stage.units),
            by_kind={kind: (s.joules, s.grams) for kind, s in (account.by_kind or {}).items()},
            shares=shares_between(stage.begin, end),
        )

    def _begin(self, stage: OpenStage) -> OpenStage:
        self._tell("opened", stage)
        now_ns = self.meter.clock_ns()
        taken = self.meter.read_for_edge(now_ns)
        with self._lock:
            self._follow(taken, now_ns)
            above = stage.parent.account if stage.parent else None
            stage.account = self.books.open(stage.kind, above, keeps_kinds=stage.run_id is not None)
            stage.opened_ns = now_ns
            stage.begin = self.meter.edge(now_ns)
            self._open[stage.account] = stage
            if stage.run_id:
                # Not before it has an account: another thread's stage may open below it from now on.
                self.runs[stage.run_id] = stage
        return stage

    def _tell(self, event: str, *arguments: Any) -> None:
        """Call a method of every sink; what one raises stays in it."""
        for sink in self.sinks:
            try:
                getattr(sink, event)(*arguments)
            except Exception as fault:  # noqa: BLE001
                report(f"{type(sink).__name__}.{event}", fault)

    def _change(self, change: Callable[[Account], None], account: Account) -> None:
        now_ns = self.meter.clock_ns()
        taken = self.meter.read_for_edge(now_ns)
        with self._lock:
            self._follow(taken, now_ns)
            change(account)

    def _follow(self, taken: Readings, now_ns: int) -> None:
        """Take in readings and charge what was spent until now to those who were open until now."""
        self.meter.apply(taken, now_ns)
        self.books.post(self.meter.advance(now_ns))

    def parent_of(self, inherited: OpenStage | None) -> OpenStage | None:
        """What a stage opened here belongs to: the inherited stage; the run begun in this thread since; else the
        only run there is.
        """
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
        by_cpu = self._weights.weigh({account: stage.native_thread for account, stage in payers.items()})
        if len(payers) < 2:
            return
        self.books.set_weights(
            {
                account: [1.0 if device.type == "gpu" else weight for device in self.devices]
                for account, weight in (by_cpu or {}).items()
            }
        )

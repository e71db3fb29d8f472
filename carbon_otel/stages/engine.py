"""Opens and closes stages against the meter, and tells the sinks.

Hardware is read outside the lock, the books are changed under it, and the sinks are told after its release.

A change of the books can be interrupted on its own thread: a garbage collection ends the stage of an abandoned
generator, or a signal handler opens a stage or raises. A second change inside the first would corrupt the books.
So an end that interrupts a change is made after it, and a stage that interrupts a change is left out: the stages
around it pay. After an exception within a change the books are restored.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from carbon_otel.footprint import footprint_of
from carbon_otel.fork import renew_after_fork
from carbon_otel.guard import log_fault
from carbon_otel.meter.meter import EdgeState, Meter, Readings
from carbon_otel.records import RUN, UNATTRIBUTED, AttributeValue, StageInfo
from carbon_otel.sinks import Checkpoint, Fanout, Figures, Sink, StageEnd, Tick
from carbon_otel.stages.accounts import Account, Books
from carbon_otel.stages.cpu_weights import ThreadWeights
from carbon_otel.stages.open_runs import OpenRuns
from carbon_otel.stages.open_stage import OpenStage, current, record_at
from carbon_otel.units import NS_PER_S, S_PER_NS

if TYPE_CHECKING:
    from carbon_otel.carbon.grid import EmissionFactor

_CHECKPOINT_S: Final = 15.0
_ids = itertools.count()


class Engine:
    """The open stages of one process, its meter and its sinks."""

    def __init__(
        self,
        meter: Meter,
        factor: EmissionFactor,
        sinks: Sequence[Sink] = (),
        *,
        missing: tuple[str, ...] = (),
        checkpoint_s: float = _CHECKPOINT_S,
        weights: ThreadWeights | None = None,
    ) -> None:
        """`missing` lists components that draw power but cannot be read; checkpoints are `checkpoint_s` apart."""
        self.alive = True
        self.meter = meter
        self.sinks = Fanout(sinks)
        self.sensors = tuple(track.timeline.sensor for track in meter.tracks)
        self.devices = tuple(sensor.device for sensor in self.sensors)
        self.to_footprint = partial(footprint_of, factor=factor, missing=missing)
        self.books = Books(len(meter.tracks), factor.emissions_g)
        self.runs = OpenRuns()
        # Called on the sampler's thread before each tick; integrations pause and end their stages in them.
        self.before_tick: list[Callable[[], None]] = []
        self._weights = weights or ThreadWeights()
        self._open: dict[Account, OpenStage] = {}
        # The recorded stages, with the joules of their last checkpoint.
        self._recorded: dict[OpenStage, float | None] = {}
        self._lock = threading.RLock()
        # Whether the holder of the lock is changing the books, and the threads that are telling the sinks: a call
        # of the same thread then interrupts it, and OpenTelemetry's own locks may be held.
        self._changing = False
        self._telling: set[int] = set()
        # Ends that came in such a moment.
        self._late_ends: deque[tuple[OpenStage, BaseException | None]] = deque()
        self._checkpoint_ns = int(checkpoint_s * NS_PER_S)
        now_ns = meter.clock_ns()
        self._due_ns = now_ns + self._checkpoint_ns
        self._last_tick = (now_ns, 0.0, 0.0)
        info = StageInfo(next(_ids), UNATTRIBUTED, UNATTRIBUTED, {}, None, None, False, time.time_ns())
        self.root = OpenStage(self, info, None, self.books.root)
        self.root.opened_ns = now_ns
        self._follow(meter.read_for_tick(now_ns), now_ns)
        self.root.begin = meter.edge(now_ns)
        renew_after_fork(self._abandon)

    def open(
        self,
        kind: str,
        name: str,
        attributes: Mapping[str, AttributeValue],
        inherited: OpenStage | None = None,
        *,
        recorded: bool = False,
    ) -> OpenStage:
        """Open a stage below the inherited stage, or below its run.

        A `recorded` stage is in every checkpoint while it is open.
        """
        parent = self.parent_of(inherited)
        above = parent.info if parent is not None else None
        run_id = above.run_id if above is not None else None
        in_record = recorded or (above is not None and above.in_record)
        info = StageInfo(next(_ids), kind, name, attributes, above, run_id, in_record, time.time_ns())
        return self._begin(OpenStage(self, info, parent, self.books.root), recorded=recorded)

    def open_run(
        self, run_id: str, name: str, parent_run_id: str | None, *, joined: bool = False
    ) -> OpenStage | None:
        """Open the stage of an experiment run; None if it is already open.

        Its parent is the stage of the parent run, or the stage that starts the run. A run is `joined` if another
        process has opened it.
        """
        with self._lock:
            if not self.runs.reserve(run_id):
                return None
            inherited = current.get()
            parent = self.runs.get(parent_run_id or "")
            if inherited is not None and inherited.engine is self and inherited.open:
                known = parent is None or inherited.info.id > parent.info.id
                parent = inherited if known else parent
        above = parent.info if parent is not None else None
        info = StageInfo(next(_ids), RUN, name, {}, above, run_id, True, time.time_ns(), joined)
        return self._begin(OpenStage(self, info, parent, self.books.root), recorded=True)

    def close(self, stage: OpenStage, error: BaseException | None = None) -> None:
        """End a stage; nothing, if it has ended before."""
        here = threading.get_ident()
        if here in self._telling:
            self._late_ends.append((stage, error))
            return
        now_ns = self.meter.clock_ns()
        readings = self.meter.read_for_edge(now_ns)
        with self._lock:
            if self._changing:
                self._late_ends.append((stage, error))
                return
            if stage.end is not None:
                return
            try:
                self._changing = True
                self._follow(readings, now_ns)
                below = self._runs_below(stage, now_ns) if stage.run is stage else {}
                account = stage.account
                joules, grams = self.books.close(account)
                edge = self.meter.edge(now_ns)
                figures = self._figures(stage, edge, account.inclusive_j, account.inclusive_g)
                seconds = (now_ns - stage.opened_ns) * S_PER_NS
                # Without the error: its traceback would keep the locals of the block as long as the stage is kept.
                end = stage.end = StageEnd(figures, now_ns, seconds, dict(stage.units), below=below)
                self._open.pop(account, None)
                self._recorded.pop(stage, None)
                if stage.run is stage:
                    self.runs.remove(stage)
            except BaseException:
                self._restore()
                self._late_ends.append((stage, error))
                raise
            finally:
                self._changing = False
        self._telling.add(here)
        try:
            self.sinks.energy_attributed(stage.info, joules, grams)
            self.sinks.stage_closed(stage.info, end if error is None else end._replace(error=error))
        finally:
            self._telling.discard(here)
        if self._late_ends:
            self._end_late()

    def enter(self, stage: OpenStage) -> None:
        self.sinks.stage_entered(stage.info)

    def leave(self, stage: OpenStage) -> None:
        self.sinks.stage_left(stage.info)

    def pause(self, stage: OpenStage) -> None:
        self._change(self.books.pause, stage.account)

    def resume(self, stage: OpenStage) -> None:
        self._change(self.books.resume, stage.account)

    def settle_run(self, stage: OpenStage, at_work: Callable[[], bool]) -> None:
        """Charge a run for its own time only while it is at work.

        `at_work` is asked under the lock, so that of two calls at once the second has the latest answer.
        """
        self._change(partial(self._settle_run, stage, at_work), stage.account)

    def tick(self, checkpoint: bool = False) -> None:
        """Read every device that is due, settle all open stages, and inform the sinks.

        A tick has a checkpoint if one is due, or if `checkpoint` is true.
        """
        for call in self.before_tick:
            try:
                call()
            except Exception as fault:  # noqa: BLE001 - a fault here must not end the sampler
                log_fault("preparing a tick", fault)
        now_ns = self.meter.clock_ns()
        readings = self.meter.read_for_tick(now_ns)
        drawn = None
        with self._lock:
            if self._changing:
                return  # a signal handler flushes: what is measured so far is sent
            try:
                self._changing = True
                self.meter.note_suspend()
                self._follow(readings, now_ns)
                payments = [
                    (stage.info, *self.books.settle(stage.account))
                    for stage in (self.root, *self._open.values())
                ]
                self._weigh()
                devices = self.meter.snapshot()
                tracks = self.meter.tracks
                watts = sum(track.share * track.timeline.power_w for track in tracks)
                self._last_tick = (now_ns, sum(track.own_j for track in tracks), watts)
                if checkpoint or now_ns >= self._due_ns:
                    self._due_ns = now_ns + self._checkpoint_ns
                    drawn = self._checkpoint(now_ns)
            except BaseException:
                self._restore()
                raise
            finally:
                self._changing = False
        here = threading.get_ident()
        self._telling.add(here)
        try:
            for info, joules, grams in payments:
                if any(joules):
                    self.sinks.energy_attributed(info, joules, grams)
            self.sinks.tick(Tick(now_ns, devices, drawn))
        finally:
            self._telling.discard(here)
        self._end_late()

    def cached_joules(self) -> float:
        """This process's joules so far, extrapolated with the last power; takes no reading and no lock."""
        then_ns, joules, watts = self._last_tick
        return joules + watts * (self.meter.clock_ns() - then_ns) * S_PER_NS

    def renew_periods(self) -> None:
        """Take over the update periods that the sensors have learned."""
        with self._lock:
            for track in self.meter.tracks:
                track.renew_period()

    def so_far(self, stage: OpenStage | None = None) -> Figures:
        """The figures of a stage as if it ended now, or its final ones; by default those of the process."""
        stage = stage or self.root
        end = stage.end
        if end is not None:
            return end.figures
        now_ns = self.meter.clock_ns()
        readings = self.meter.read_for_edge(now_ns)
        with self._lock:
            if self._changing:
                raise RuntimeError("the books are being changed by the code that this call interrupts")
            try:
                self._changing = True
                self._follow(readings, now_ns)
                if stage.end is not None:
                    return stage.end.figures
                edge = self.meter.edge(now_ns)
                return self._figures(stage, edge, *self.books.inclusive(stage.account))
            except BaseException:
                self._restore()
                raise
            finally:
                self._changing = False

    def close_all(self) -> None:
        """End every open stage, the innermost first."""
        with self._lock:
            stages = sorted(self._open.values(), key=lambda stage: -stage.info.id)
        for stage in stages:
            self.close(stage)
        self.tick(checkpoint=True)

    def close_windows(self) -> None:
        """End the recorded stages other than runs: no block of the application ends them."""
        with self._lock:
            windows = [stage for stage in self._recorded if stage.run is not stage]
        for window in windows:
            self.close(window)

    def _abandon(self) -> None:
        """In a forked child: no stage opens or ends here any more, and no thread is left to release the lock."""
        self.alive = self._changing = False
        self._late_ends.clear()
        self._telling.clear()
        self._lock = threading.RLock()

    def parent_of(self, inherited: OpenStage | None) -> OpenStage | None:
        """The parent of a stage opened here: the inherited stage or a run, by the rule of `OpenRuns.here`."""
        if inherited is not None and (inherited.engine is not self or not inherited.open):
            inherited = None
        return self.runs.here(inherited)

    def _begin(self, stage: OpenStage, *, recorded: bool) -> OpenStage:
        here = threading.get_ident()
        self._telling.add(here)
        try:
            self.sinks.stage_opened(stage.info)
        finally:
            self._telling.discard(here)
        now_ns = self.meter.clock_ns()
        readings = self.meter.read_for_edge(now_ns)
        with self._lock:
            stage.opened_ns = now_ns
            if self._changing:
                stage.account = self.books.left_out(stage.info.kind)
                stage.begin = self.meter.edge(now_ns)
                return stage
            try:
                self._changing = True
                self._follow(readings, now_ns)
                above = stage.parent.account if stage.parent else None
                stage.account = self.books.open(stage.info.kind, above, keeps_kinds=stage.run is stage)
                stage.begin = self.meter.edge(now_ns)
                self._open[stage.account] = stage
                if recorded:
                    self._recorded[stage] = None
                if stage.run is stage:
                    # Not before it has an account: another thread's stage may open below it from now on.
                    self.runs.add(stage)
            except BaseException:
                self._restore()
                raise
            finally:
                self._changing = False
        if self._late_ends:
            self._end_late()
        return stage

    def _checkpoint(self, now_ns: int) -> Checkpoint:
        edge = self.meter.edge(now_ns)
        process = self._figures(self.root, edge, *self.books.inclusive(self.root.account))
        figures = {}
        for stage, before_j in self._recorded.items():
            joules, grams = self.books.inclusive(stage.account)
            total_j = self._recorded[stage] = sum(joules)
            if stage.run is not stage or total_j != before_j:
                figures[stage.info] = self._figures(stage, edge, joules, grams)
        return Checkpoint(time.time_ns(), process, figures)

    def _figures(self, stage: OpenStage, edge: EdgeState, joules: Sequence[float], grams: float) -> Figures:
        return Figures(record_at(stage, self.sensors, edge, joules, grams), self.to_footprint)

    def _change(self, change: Callable[[Account], None], account: Account) -> None:
        now_ns = self.meter.clock_ns()
        readings = self.meter.read_for_edge(now_ns)
        with self._lock:
            if self._changing:
                return  # a generator that is collected is resumed for its end only, and paused again
            try:
                self._changing = True
                self._follow(readings, now_ns)
                change(account)
            except BaseException:
                self._restore()
                raise
            finally:
                self._changing = False
        if self._late_ends:
            self._end_late()

    def _settle_run(self, stage: OpenStage, at_work: Callable[[], bool], account: Account) -> None:
        if not stage.open:
            return
        if at_work():
            self.books.wake(account)
            self.runs.wake(stage)
        else:
            self.books.rest(account)
            self.runs.rest(stage)

    def _restore(self) -> None:
        """After an exception, most likely KeyboardInterrupt, in the middle of a change."""
        for account in [account for account in self._open if not account.open]:
            del self._open[account]
        self.books.restore(self._open.keys())

    def _end_late(self) -> None:
        if threading.get_ident() in self._telling:
            return
        for _ in range(len(self._late_ends)):
            try:
                late = self._late_ends.popleft()
            except IndexError:  # another thread was first
                return
            self.close(*late)

    def _runs_below(self, stage: OpenStage, now_ns: int) -> dict[StageInfo, Figures]:
        """The open runs in a run that ends, with their figures at this moment."""
        edge = self.meter.edge(now_ns)
        return {
            run.info: self._figures(run, edge, *self.books.inclusive(run.account))
            for run in self.runs
            if run is not stage and run.is_in(stage)
        }

    def _follow(self, readings: Readings, now_ns: int) -> None:
        """Enter readings, and charge the energy up to `now_ns` to the stages that were open until then."""
        self.meter.apply(readings, now_ns)
        self.books.post(self.meter.advance(now_ns))

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

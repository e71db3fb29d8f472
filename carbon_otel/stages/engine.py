"""Opens and closes stages against the meter, and tells the sinks.

Hardware is read outside the lock, the books are changed under it, and the sinks are told after its release.

A call can be interrupted on its own thread, between any two bytecodes: a garbage collection ends the stage of an
abandoned generator, or a signal handler opens a stage or raises. A call inside another one is put off until the
outer one has ended (`turns.py`), and a stage that would open there is left out: the stages around it pay. After an
exception the books are restored, and what was begun is finished or can be asked for again.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Final, TypeVar

from carbon_otel.carbon.life_cycle import NO_LIFE_CYCLE, LifeCycle
from carbon_otel.footprint import Footprint
from carbon_otel.fork import renew_after_fork
from carbon_otel.guard import arrived, log_fault, log_undone, undone
from carbon_otel.meter.meter import NO_EDGE, Meter, Readings
from carbon_otel.records import RUN, AttributeValue, StageInfo, StageRecord
from carbon_otel.sinks import Checkpoint, Fanout, Figures, Sink, StageEnd, Tick
from carbon_otel.stages.accounts import Account, Books
from carbon_otel.stages.cpu_weights import StageWeights, ThreadWeights
from carbon_otel.stages.due import Due
from carbon_otel.stages.figures import Statements
from carbon_otel.stages.open_runs import OpenRuns
from carbon_otel.stages.open_stage import OpenStage
from carbon_otel.stages.preparing import parent_of, prepare, prepare_run, root
from carbon_otel.stages.rounds import Payment, Rounds
from carbon_otel.stages.shares import Shares
from carbon_otel.stages.turns import Turns
from carbon_otel.units import S_PER_NS

if TYPE_CHECKING:
    from carbon_otel.carbon.grid import EmissionFactor

_CHECKPOINT_S: Final = 15.0
_T = TypeVar("_T")


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
        life: LifeCycle = NO_LIFE_CYCLE,
    ) -> None:
        """`missing` lists components that draw power but cannot be read; checkpoints are `checkpoint_s` apart."""
        self.alive = True
        self.meter = meter
        self.sinks = Fanout(sinks)
        self.sensors = tuple(track.timeline.sensor for track in meter.tracks)
        self.devices = tuple(sensor.device for sensor in self.sensors)
        self.books = Books(len(meter.tracks), factor.emissions_g)
        self.runs = OpenRuns()
        # Called on the sampler's thread before each tick; integrations pause and end their stages in them.
        self.before_tick: list[Callable[[], None]] = []
        # What the sinks were told of last, in full.
        self.last_checkpoint: Checkpoint | None = None
        # Asked at each tick: whether somebody looks at the open stages.
        self.is_viewed: Callable[[], bool] = bool
        self._weights = StageWeights(self.books, self.devices, weights or ThreadWeights())
        self.statements = Statements(self.sensors, self.books, factor, missing, life)
        # In the order in which they were opened.
        self._open: dict[Account, OpenStage] = {}
        # Those of whose begin or end the sinks are being told.
        self._told: set[OpenStage] = set()
        self._recorded = self.statements.recorded
        # The account of stages that have not opened.
        self.nobody = self.books.left_out("")
        calls = Engine.begin, Engine.close, Engine.tick, Engine.at_edge
        self._turns = Turns(self._restore, [call.__code__ for call in calls])
        now_ns = meter.clock_ns()
        self.checkpoints = Due(meter.clock_ns, checkpoint_s)
        self._last_tick = (now_ns, 0.0, 0.0)
        self.root = root(self)
        self.shares = Shares(self)
        self._rounds = Rounds(self.books, self.root, self.shares.held_back)
        self.before_tick.append(self.shares.make_children)
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
        stage = self.prepare(kind, name, attributes, inherited, recorded=recorded)
        self.begin(stage)
        return stage

    def prepare(
        self,
        kind: str,
        name: str,
        attributes: Mapping[str, AttributeValue],
        inherited: OpenStage | None = None,
        *,
        recorded: bool = False,
    ) -> OpenStage:
        """The stage that `begin` opens: a caller that is interrupted there can end it."""
        return prepare(self, self.parent_of(inherited), kind, name, attributes, recorded=recorded)

    def begin(self, stage: OpenStage) -> None:
        """Open a prepared stage."""
        here, turns = get_ident(), self._turns
        if here in turns.busy and turns.within(here):
            stage.opened_ns = self.meter.clock_ns()
            stage.begin = self.meter.edge(stage.opened_ns)
            return
        try:
            turns.busy.add(here)
            self._told.add(stage)
            self.sinks.stage_opened(stage.info)
            now_ns = self.meter.clock_ns()
            readings = self.meter.read_for_edge(now_ns)
            turns.take(here)
            self._follow(readings, now_ns)
            stage.opened_ns = now_ns
            above = stage.parent.account if stage.parent else None
            if stage.split is None:
                if self.shares.live:
                    self.shares.settle(stage.parent or self.root, now_ns)
                stage.account = self.books.open(stage.info.kind, above, keeps_kinds=stage.run is stage)
            else:
                stage.account = self.books.beside(stage.info.kind, above)
            stage.begin = self.meter.edge(now_ns)
            self._open[stage.account] = stage
            self._told.discard(stage)
            if stage.recorded:
                self._recorded[stage] = None
            if stage.run is stage:
                # Not before it has an account: another thread's stage may open below it from now on.
                self.runs.add(stage)
            turns.give()
            turns.busy.discard(here)
            if turns.late:
                turns.make_late_calls()
        except BaseException:
            self._told.discard(stage)
            turns.give_up(here)
            raise

    def open_run(
        self,
        run_id: str,
        name: str,
        parent_run_id: str | None,
        *,
        joined: bool = False,
        kind: str = RUN,
    ) -> OpenStage | None:
        """Open the stage of an experiment run; None if it is already open.

        Its parent is the stage of the parent run, or the stage that starts the run. A run is `joined` if another
        process has opened it. What it pays itself is of this `kind`.
        """
        if not self.runs.reserve(run_id):
            return None
        stage = None
        try:
            stage = prepare_run(self, run_id, name, parent_run_id, joined, kind)
            self.begin(stage)
            return stage
        except BaseException:
            if stage is not None:
                self.close(stage)
            self.runs.release(run_id)
            raise

    def close(
        self,
        stage: OpenStage,
        error: BaseException | None = None,
        *,
        provided: Callable[[], bool] | None = None,
    ) -> None:
        """End a stage; nothing, if it has ended before, or if `provided`, asked under the lock, does not hold.

        An exception that arrives meanwhile does not keep it open.
        """
        here, turns = get_ident(), self._turns
        if here in turns.busy and turns.within(here):
            turns.late.append(partial(self.close, stage, error, provided=provided))
            return
        try:
            if self.shares.live:
                self.shares.finish(stage)
            turns.busy.add(here)
            if stage.end is None:
                now_ns = self.meter.clock_ns()
                readings = self.meter.read_for_edge(now_ns)
                turns.take(here)
                if (provided is None or provided()) and stage.end is None:
                    self._end(stage, error, readings, now_ns)
                turns.give()
            for tell, facts in stage.untold:
                tell(stage.info, *facts)
            self._told.discard(stage)
            turns.busy.discard(here)
            if turns.late:
                turns.make_late_calls()
        except BaseException as fault:
            self._told.discard(stage)
            if arrived(fault):
                turns.late.append(partial(self.close, stage, error, provided=provided))
            turns.give_up(here)
            raise

    def abandoned(self, owner: weakref.ref[object]) -> None:
        """End the stage whose owner has gone without an end, because an exception arrived just before it.

        Where an exception keeps this from being done, the next tick does it.
        """
        for stage in list(self._open.values()):
            if stage.owner is owner and self.alive:
                self.close(stage)

    def _end(self, stage: OpenStage, error: BaseException | None, readings: Readings, now_ns: int) -> None:
        self._follow(readings, now_ns)
        if stage.account not in self._open:  # an exception has kept it from opening: the books do not know it
            stage.account = self.nobody
        edge, account = self.meter.edge(now_ns), stage.account
        below = self.statements.of_runs_in(stage, self.runs, edge) if stage.run is stage else {}
        if self.shares.live and stage.split is None:
            self.shares.settle(stage.parent or self.root, now_ns)
        self.books.close(account)
        if stage.begin is NO_EDGE:  # an exception has kept it from opening
            stage.begin, stage.opened_ns = edge, now_ns
        seconds = (now_ns - stage.opened_ns) * S_PER_NS if stage.split is None else stage.split.busy_s
        # Without the error: its traceback would keep the locals of the block as long as the stage is kept.
        end = StageEnd(self.statements.of(stage, edge), now_ns, seconds, stage.units_of_kind, below=below)
        owed = self.books.owed(account)
        # Each is told once, also if an exception arrives between them.
        told = end if error is None else end._replace(error=error)
        sinks = self.sinks
        stage.untold = iter(((sinks.energy_attributed, owed), (sinks.stage_closed, (told,))))
        stage.end, stage.owner = end, None
        if stage.call is not None:  # an exception may have kept it from its end
            stage.call.over()
        self._told.add(stage)
        self._open.pop(account, None)
        self._recorded.pop(stage, None)
        if stage.run is stage:
            self.runs.remove(stage)

    def pause(self, stage: OpenStage) -> None:
        self._change(self.books.pause, stage)

    def resume(self, stage: OpenStage) -> None:
        self._change(self.books.resume, stage)

    def settle_run(self, stage: OpenStage, at_work: Callable[[], bool]) -> None:
        """Charge a run for its own time only while it is at work.

        `at_work` is asked under the lock, so that of two calls at once the second has the latest answer.
        """
        self._change(partial(self._settle_run, stage, at_work), stage)

    def is_in_use(self, run: OpenStage, besides: StageInfo | None = None) -> bool:
        """Whether a stage is open in a run, or a loop or a short call under way.

        A stage is open until all sinks have been told of its end. One does not count, `besides` which.
        """
        # One that opens is told before it is open, and one that ends was open before it is told.
        stages = (*self._told.copy(), *tuple(self._open.values()), *self._told.copy())
        # A part of what the run pays is open until the run ends.
        inside = (stage for stage in stages if stage.run is run and stage.split is None)
        others = (stage for stage in inside if stage is not run and stage.info is not besides)
        return next(others, None) is not None or self.shares.are_busy(run)

    def pays_alone(self, run: OpenStage) -> bool:
        """Whether a run pays all that no stage in it does, because nothing is open beside it."""
        beside = (
            stage for stage in tuple(self._open.values()) if stage.run is not run and stage.split is None
        )
        return next(beside, None) is None and not self.shares.are_busy(self.root)

    def tick(self, checkpoint: bool = False) -> None:
        """Read every device that is due, settle all open stages, and inform the sinks.

        A tick has a checkpoint if one is due, or if `checkpoint` is true.
        """
        here, turns = get_ident(), self._turns
        if here in turns.busy and turns.within(here):  # a signal handler flushes
            turns.late.append(partial(self.tick, checkpoint))
            return
        for call in self.before_tick:
            try:
                call()
            except Exception as fault:  # noqa: BLE001 - a fault here must not end the sampler
                log_fault("preparing a tick", fault)
        try:
            turns.busy.add(here)
            viewed = self.is_viewed()
            now_ns = self.meter.clock_ns()
            readings = self.meter.read_for_tick(now_ns)
            turns.take(here)
            self.meter.note_suspend()
            self._follow(readings, now_ns)
            if self.shares.live:
                self.shares.settle_all(now_ns)
            self._weights.renew(self._open)
            if checkpoint:
                self._rounds.begin()
            payments = self._rounds.payments(self._open.values())
            devices, embodied_g = self.meter.snapshot(), self.meter.accrue(now_ns)
            tracks = self.meter.tracks
            shares = tuple([track.share for track in tracks])
            watts = sum(track.share * track.timeline.power_w for track in tracks)
            self._last_tick = (now_ns, sum(track.own_j for track in tracks), watts)
            drawn, view = self._drawn(now_ns, checkpoint, viewed)
            turns.give()
            self._tell(payments)
            while checkpoint and not self._rounds.over:
                turns.take(here)
                payments = self._rounds.payments(self._open.values())
                turns.give()
                self._tell(payments)
            self.sinks.tick(Tick(now_ns, devices, drawn, embodied_g, shares, view))
            if undone:
                log_undone()
            while self._rounds.abandoned:
                turns.late.append(partial(self.close, self._rounds.abandoned[0]))
                self._rounds.abandoned.popleft()
            turns.busy.discard(here)
            if turns.late:
                turns.make_late_calls()
        except BaseException:
            turns.give_up(here)
            raise

    def _drawn(self, now_ns: int, anyway: bool, viewed: bool) -> tuple[Checkpoint | None, Checkpoint | None]:
        """The checkpoint of a tick, if one is due, and the view, if somebody looks."""
        drawn = view = None
        if self.checkpoints.take(now_ns, anyway=anyway):
            drawn = self.last_checkpoint = self.statements.checkpoint(self.root, self.meter.edge(now_ns))
        if viewed:
            view = self.statements.view(self.root, self._open.values(), self.meter.edge(now_ns))
        return drawn, view

    def _tell(self, payments: Iterator[Payment]) -> None:
        try:
            for info, joules, grams, embodied_g in payments:
                if embodied_g or any(joules):
                    self.sinks.energy_attributed(info, joules, grams, embodied_g)
        except BaseException:
            self._turns.late.append(partial(self._tell, payments))
            raise

    def cached_joules(self) -> float:
        """This process's joules so far, extrapolated with the last power; takes no reading and no lock."""
        then_ns, joules, watts = self._last_tick
        return joules + watts * (self.meter.clock_ns() - then_ns) * S_PER_NS

    def to_footprint(self, record: StageRecord) -> Footprint:
        """The footprint of a record, with the present emission factor."""
        return self.statements.to_footprint(record)

    @property
    def open_stages(self) -> list[StageInfo]:
        """The open stages, in the order in which they were opened."""
        return [stage.info for stage in list(self._open.values())]

    def renew_periods(self) -> None:
        """Take over the update periods that the sensors have learned."""
        for track in self.meter.tracks:
            track.renew_period()

    def so_far(self, stage: OpenStage | None = None) -> Figures:
        """The figures of a stage as if it ended now, or its final ones; by default those of the process."""
        stage = stage or self.root
        if stage.end is not None:
            return stage.end.figures
        return self.at_moment(partial(self._so_far, stage))

    def _so_far(self, stage: OpenStage, now_ns: int) -> Figures:
        return stage.end.figures if stage.end else self.statements.of(stage, self.meter.edge(now_ns))

    def close_all(self, error: BaseException | None = None) -> None:
        """End every open stage, the innermost first; `error` is what ends them."""
        self.shares.finish(self.root)
        for stage in sorted(self._open.values(), key=lambda stage: -stage.info.id):
            self.close(stage, error)
        self.tick(checkpoint=True)

    def put_off(self, call: Callable[[], object]) -> bool:
        """Whether a call of the engine is under way in this thread; `call` is then made right after it."""
        here, turns = get_ident(), self._turns
        if here in turns.busy and turns.within(here):
            turns.late.append(call)
            return True
        return False

    def close_windows(self) -> None:
        """End the recorded stages other than runs: no block of the application ends them."""
        for stage in list(self._recorded):
            if stage.run is not stage:
                self.close(stage)

    def _abandon(self) -> None:
        """In a forked child: no stage opens or ends here any more."""
        self.alive = False

    def parent_of(self, inherited: OpenStage | None) -> OpenStage | None:
        """The parent of a stage opened here."""
        return parent_of(self, inherited)

    def _change(self, change: Callable[[Account], None], stage: OpenStage) -> None:
        if get_ident() in self._turns.busy and self._turns.within(get_ident()):
            self._turns.late.append(partial(self._change, change, stage))
        else:
            self.at_edge(partial(self._change_known, change, stage))

    def _change_known(self, change: Callable[[Account], None], stage: OpenStage, now_ns: int) -> None:
        if stage.account in self._open:  # else an exception has kept it from opening
            for payer in (stage, stage.parent or self.root) if self.shares.live else ():
                self.shares.settle(payer, now_ns)
            change(stage.account)

    def at_edge(self, call: Callable[[int], _T]) -> _T:
        """Call with the present time, once the readings up to it are entered, under the lock."""
        here, turns = get_ident(), self._turns
        try:
            turns.busy.add(here)
            now_ns = self.meter.clock_ns()
            readings = self.meter.read_for_edge(now_ns)
            turns.take(here)
            self._follow(readings, now_ns)
            result = call(now_ns)
            turns.give()
            turns.busy.discard(here)
            if turns.late:
                turns.make_late_calls()
        except BaseException:
            turns.give_up(here)
            raise
        return result

    def at_moment(self, call: Callable[[int], _T]) -> _T:
        """The same; but within another call of this thread as things are: reading them changes nothing."""
        here = get_ident()
        if here in self._turns.busy and self._turns.within(here):
            return call(self.meter.clock_ns())
        return self.at_edge(call)

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
        """Mend the books after an exception in the middle of a change."""
        for account, stage in list(self._open.items()):
            if stage.end is not None:
                del self._open[account]
                self._recorded.pop(stage, None)
                if stage.run is stage:
                    self.runs.remove(stage)
        self.runs.restore()
        self.books.restore(self._open)

    def _follow(self, readings: Readings, now_ns: int) -> None:
        """Enter readings, and charge the energy up to `now_ns` to the stages that were open until then."""
        self.meter.apply(readings, now_ns)
        self.books.post(self.meter.advance(now_ns), self.meter.accrue(now_ns))

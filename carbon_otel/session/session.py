"""A running measurement."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, MutableMapping
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from carbon_otel import clock, here, journal
from carbon_otel.background import Worker
from carbon_otel.carbon.grid import EmissionFactor
from carbon_otel.carbon.intensity import WORLD
from carbon_otel.config import Settings
from carbon_otel.footprint import Footprint
from carbon_otel.guard import contain, log_once
from carbon_otel.handover import NO_WORK, RUN, Work, present
from carbon_otel.host.attribution import Attribution
from carbon_otel.host.cgroup import host_threads, reservation
from carbon_otel.host.counters_view import view_of
from carbon_otel.host.identity import boot
from carbon_otel.host.membership import Membership
from carbon_otel.instrumentation import accelerators, tasks
from carbon_otel.instrumentation.import_hook import ImportHook
from carbon_otel.journal import Journal
from carbon_otel.life import life_cycle
from carbon_otel.live import Live
from carbon_otel.meter.meter import Meter
from carbon_otel.meter.sampler import Sampler
from carbon_otel.otel import cpu_steal
from carbon_otel.otel.kept import Kept
from carbon_otel.otel.own_providers import resource_of_process
from carbon_otel.otel.propagation import is_from_stage
from carbon_otel.otel.providers import Providers
from carbon_otel.otel.resource import described
from carbon_otel.otel.sink import OtelSink
from carbon_otel.ranks import group
from carbon_otel.records import StageInfo
from carbon_otel.runtime import Options
from carbon_otel.sensors.base import Sensor
from carbon_otel.sensors.discovery import discover
from carbon_otel.sensors.following import InTurn
from carbon_otel.sensors.proc_stat import BusyTime
from carbon_otel.session.announcement import Announcement
from carbon_otel.session.audience import called_before_program
from carbon_otel.session.changes import after, apply, change_providers
from carbon_otel.session.patches import install
from carbon_otel.session.watchers import Watchers
from carbon_otel.sinks import Fanout, Killed, Pending, Sink, nothing_pending
from carbon_otel.stages.api import Stage
from carbon_otel.stages.engine import Engine
from carbon_otel.stages.open_stage import current

if TYPE_CHECKING:
    from carbon_otel.intensity.live import Follower

# For all sinks together. The bound on added exit time is 5 s; the difference is a reserve.
EXIT_BUDGET_S: Final = 4.5
# A program that is measured from the start of the interpreter imports its libraries first.
_TO_NAME_A_ZONE_S: Final = 30.0


class Session:
    """A running measurement.

    In a child process, `hook` has the patches that are there before it begins; a `forked` child inherits them.
    `work` is the work for which this process was started; by default its environment says.
    """

    def __init__(
        self,
        options: Options,
        hook: ImportHook | None = None,
        work: Work | None = None,
        *,
        forked: bool = False,
    ) -> None:
        settings = options.settings
        self.options = options
        self._work = Work(dict(os.environ)) if work is None else work
        factor = here.factor(settings)
        self._follower: Follower | None = None
        if settings.intensity:
            factor, self._follower = _followed(factor, settings)
        with ExitStack() as undo:
            self.discovery = discover(settings.powercap_root, settings.cpu_family)
            undo.callback(self.discovery.close)
            self.membership = Membership(view_of(settings.powercap_root), settings.runtime_dir)
            undo.callback(self.membership.leave)
            self._busy_time = BusyTime()
            undo.callback(self._busy_time.close)
            self.attribution = self._attribute()
            life = life_cycle(settings, self.discovery, host_threads(), factor)
            self.engine = Engine(
                Meter(
                    self.discovery.sensors,
                    rule=self.attribution,
                    on_fault=_warn_of_fault,
                    reserved_rates=life.reserved,
                ),
                factor,
                missing=self.discovery.missing,
                checkpoint_s=settings.checkpoint_interval_s,
                life=life,
            )
            resource = described(self.discovery, factor)
            self.providers = Providers.choose(options.tracer_provider, options.meter_provider, resource)
            self.watchers = Watchers(settings, self.engine, self.providers)
            self.otel = OtelSink(
                self.providers,
                self.engine.devices,
                factor,
                boot(),
                self.membership.holds_device_book,
                self.membership.exchange_reported_until,
                cpu_steal.Steal().share,
                self._work,
            )
            # Start the thread now: none can be started at interpreter exit.
            self.delivery = Worker("carbon_otel delivery")
            self.kept: Kept | None = None
            self.journal: Journal | None = None
            path = settings.journal or journal.former_path()
            self.announcement: Announcement | None = None
            if hook is None:  # a child is spoken for by its parent
                self.announcement = Announcement(self, keeps_journal=path is not None)
                if self.announcement.file is not None:
                    self.engine.sinks.add(self.announcement.file)
                if path is not None or (self.announcement.file is not None and "mlflow" not in sys.modules):
                    self.engine.checkpoints.begin_at_once()
            if path is not None and hook is None:  # a child must not write the file of its parent
                own = resource_of_process(resource).attributes
                self.kept = Kept(self.otel.instruments, self.otel.labels, own)
                self.journal = Journal(path, self.delivery, self.kept, settings.checkpoint_interval_s)
                self.engine.sinks.add(self.kept)
                self.engine.sinks.add(self.journal)
            self.engine.sinks.add(self.otel)
            live = Live(lambda: self.membership.shown, self.delivery)
            self.engine.is_viewed = live.is_asked
            self.engine.sinks.add(live)
            self._in_turn = InTurn(self.discovery.sensors)
            self.sampler = Sampler(self._tick, settings.interval_s, self._prepare)
            self._release = undo.pop_all()
        self._changed: list[Callable[[], object]] = []
        # The program may name its zone itself: until then, a warning would be too early.
        self._warn_of_place_at_s = clock.monotonic() + _TO_NAME_A_ZONE_S if called_before_program() else None
        self._task: Stage | None = None
        self._rank_runs: Any = None
        self._forked = forked
        self._connected = hook is not None
        self.hook = hook or ImportHook()

    @property
    def settings(self) -> Settings:
        return self.options.settings

    @property
    def factor(self) -> EmissionFactor:
        return self.engine.statements.factor

    def on_change(self, call: Callable[[], object]) -> None:
        """Have it called whenever the settings have changed."""
        self._changed.append(call)

    def change(self, later: Options) -> None:
        """Take over the settings that a later call of `instrument()` names."""
        before, self.options = self.options, after(self.options, later)
        contain("changing the settings", None, apply, self, before.settings)
        contain("changing the providers", None, change_providers, self, later)
        for call in self._changed:
            contain("changing the settings", None, call)

    def begin(self) -> None:
        """Start the sampler, instrument the libraries, and warn of components without figures."""
        self.sampler.start()
        if self._follower is not None:
            self._follower.start()
        self.hook.attach(self)
        self.take_over(present.get() or self._work)
        group.changed.append(self._ranks_changed)
        if not self._forked and self._work is not NO_WORK:
            contain("looking for the other ranks", None, self._meet_ranks)
        if not self._connected:
            install(self.hook, self.settings)
            if self._warn_of_place_at_s is None:
                _warn_of_place(self)
            _warn_of_gaps(self)
            if self.announcement is not None:
                contain("announcing the measurement", None, self.announcement.begin)
            self._task = contain("opening the stage of a task", None, self._open_task)

    def _open_task(self) -> Stage | None:
        variables = self._work.variables
        # What a stage or a run of the task starts belongs to that.
        if is_from_stage(variables) or RUN in variables:
            return None
        stage = tasks.stage_of_process(variables, sys.argv)
        return None if stage is None else stage.__enter__()

    def _close_task(self) -> None:
        stage, self._task = self._task, None
        if stage is not None:
            stage.__exit__(None, None, None)

    def end(self, *, in_worker: bool = False) -> None:
        """Close all open stages and send all pending telemetry, within the exit budget.

        `in_worker` says that the process ends without `atexit`, which would shut down the application's providers.
        """
        # Where a signal handler calls, the sinks still have to be told.
        if self.engine.put_off(partial(self.end, in_worker=in_worker)):
            return
        deadline = clock.monotonic() + EXIT_BUDGET_S
        self.disconnect()
        self._close_task()
        self._leave_ranks()
        self.watchers.shutdown()
        self._close_books(1.0)
        self._send_all(deadline, of_application=in_worker)
        self._announce_end()
        self.delivery.close()
        contain("releasing the sensors", None, self._release.close)

    def end_for_good(self, timeout_s: float) -> None:
        """As `end`, in a process in which nothing runs afterwards: no `atexit`, no end of a run by MLflow."""
        deadline = clock.monotonic() + timeout_s
        self._leave_ranks()
        self._close_books(timeout_s / 4, Killed())
        self._send_all(deadline, of_application=True)
        self._announce_end()

    def _announce_end(self) -> None:
        """Say what the sinks have: what is spent on sending is not in it."""
        if self._warn_of_place_at_s is not None:
            _warn_of_place(self)
        told = self.engine.last_checkpoint
        if self.announcement is not None and told is not None:
            contain("announcing the end", None, self.announcement.end, told.process)

    def flush_application(self, timeout_s: float) -> None:
        """Flush the application's providers, also after the end."""
        self.providers.flush_of_application(timeout_s, inherited=self._forked)(timeout_s)

    def _send_all(self, deadline: float, *, of_application: bool) -> None:
        left_s = max(0.0, deadline - clock.monotonic())
        begun: Pending = nothing_pending
        if of_application:
            begun = self.providers.flush_of_application(left_s, inherited=self._forked)
        self._wait(deadline, closing=True)
        begun(max(0.0, deadline - clock.monotonic()))

    def _close_books(self, timeout_s: float, error: BaseException | None = None) -> None:
        """Close all open stages, at most `timeout_s` seconds after a running tick has begun."""
        self.sampler.stop(timeout_s)
        if self._follower is not None:
            self._follower.stop()
        contain("closing the open stages", None, self.engine.close_all, error)
        contain("leaving the shared use", None, self.attribution.leave)
        # Leave before closing the sinks, which may take seconds, so that another process reports the devices
        # now.
        contain("leaving the other processes", None, self.membership.leave)
        self.engine.alive = False

    def disconnect(self) -> None:
        """Undo every patch."""
        self.hook.remove()

    def in_child(self) -> Session:
        """A forked child works for the stage that was current at the fork, unless it is a worker of a pool."""
        work = present.get()
        if work is None:
            variables: dict[str, str] = {}
            # Without a stage it works for what its environment says: `forkserver` sets that after the fork.
            if self.engine.parent_of(current.get()) is not None:
                contain("looking for the stage of the parent process", None, self.inject, variables)
            work = Work(variables) if variables else None
            return Session(self.options, self.hook, work, forked=True)
        if work is NO_WORK:
            present.set(None)
        elif work.leave is not None:  # the parent has joined the run, and leaves it
            present.set(Work(work.variables))
        return Session(self.options, self.hook, NO_WORK, forked=True)

    @property
    def sinks(self) -> Fanout:
        return self.engine.sinks

    def add_sink(self, sink: Sink) -> None:
        self.engine.sinks.add(sink)

    @property
    def hardware(self) -> str:
        return self.discovery.hardware

    @property
    def gpus(self) -> tuple[str, ...]:
        """The names of the GPUs."""
        return self.discovery.gpus

    def trace_id(self, stage: StageInfo) -> str | None:
        """The trace id of an open stage."""
        return self.otel.trace_id(stage)

    def inject(self, environment: MutableMapping[str, str]) -> None:
        """Put the current stage or run into a child's environment."""
        work, inherited = present.get(), current.get()
        if work is not None and not self.engine.alive:  # in a forked child without a measurement of its own
            environment.update(work.variables)
            return
        stage = self.engine.parent_of(inherited)
        for sink in self.engine.sinks:
            sink.hand_over(stage.info if stage is not None else None, environment)

    def take_over(self, work: Work) -> None:
        """Join the run of work that another process has handed over, until `work.leave()`."""
        run_id, _, address = work.variables.get(RUN, "").partition(" ")
        if run_id and address and work.leave is None:
            # Imports nothing of MLflow, which the program may not have imported.
            integration = importlib.import_module("carbon_otel.mlflow.integration")
            work.leave = contain("joining a run", None, integration.join, self, run_id, address)

    def _ranks_changed(self, there: bool) -> None:
        contain("looking for the other ranks", None, self._meet_ranks)
        if self._rank_runs is not None:
            contain("looking for the other ranks", None, self._rank_runs.group_changed, there)

    def _meet_ranks(self) -> None:
        """Work for the run of rank 0, unless this process was started from a run."""
        if group.look() is None or self._rank_runs is not None or self._work.leave is not None:
            return
        integration = importlib.import_module("carbon_otel.mlflow.integration")
        self._rank_runs = integration.rank_runs(self, self.otel.adopt)

    def _leave_ranks(self) -> None:
        if self._ranks_changed in group.changed:
            group.changed.remove(self._ranks_changed)
        if self._rank_runs is not None:
            contain("looking for the other ranks", None, self._rank_runs.end)

    def no_span(self) -> AbstractContextManager[object]:
        """Within it, no span of the application or of a stage is current."""
        return self.otel.no_span()

    def footprint(self) -> Footprint:
        """The footprint of the process so far."""
        return self.engine.so_far().footprint

    def flush(self, timeout_s: float) -> bool:
        """Read the sensors and flush all sinks; False if that takes longer than `timeout_s` seconds."""
        deadline = clock.monotonic() + timeout_s
        contain("reading the sensors", None, self.engine.tick, True)
        return self._wait(deadline, closing=False)

    def prepare_exit(self, timeout_s: float) -> bool:
        """Close the stages that no block closes, and flush: the process may now end without `atexit`."""
        contain("closing windows of inference", None, self.engine.close_windows)
        self._close_task()
        return self.flush(timeout_s)

    def synchronize(self) -> None:
        if self.settings.synchronize:
            for name, wait in accelerators.WAITS.items():
                library = sys.modules.get(name)
                if library is not None:
                    contain(f"waiting for the work of {name}", None, wait, library)

    def _wait(self, deadline: float, *, closing: bool) -> bool:
        """Flush or close all sinks at the same time, so that a dead backend does not delay a healthy one."""
        pending = []
        for sink in self.engine.sinks:
            task = f"{'closing' if closing else 'flushing'} {type(sink).__name__}"
            left_s = max(0.0, deadline - clock.monotonic())
            begun = contain(task, None, sink.close if closing else sink.flush, left_s)
            pending.append((task, begun))
        results = [
            begun is not None and contain(task, False, begun, max(0.0, deadline - clock.monotonic()))
            for task, begun in pending
        ]
        return all(results)

    def _attribute(self) -> Attribution:
        return Attribution(
            self.settings.attribution,
            [sensor.device for sensor in self.discovery.sensors],
            reservation(host_threads()),
            self.membership,
            self._busy_time,
            clock.monotonic_ns(),
            self.discovery.utilisation,
        )

    def _tick(self) -> None:
        self.engine.tick()
        self.otel.send_soon()
        self._in_turn.follow(self.sampler.rest)
        if self._warn_of_place_at_s is not None and clock.monotonic() > self._warn_of_place_at_s:
            self._warn_of_place_at_s = None
            _warn_of_place(self)

    def _prepare(self) -> None:
        """Let the sensors learn their update periods: about a second of reading, on the sampler's thread."""
        self.discovery.prepare(self.sampler.rest)
        self.engine.renew_periods()


def _followed(factor: EmissionFactor, settings: Settings) -> tuple[EmissionFactor, Follower]:
    """The factor with the intensity of each interval, by the provider of the settings, and what keeps it so."""
    from carbon_otel.intensity.live import Follower, LiveFactor  # noqa: PLC0415 - rarely used
    from carbon_otel.intensity.provider import find  # noqa: PLC0415 - the same

    live = LiveFactor(factor)
    found = partial(find, settings.intensity or "", settings.state_dir / "intensity")
    return live, Follower(live, found, live.intensity.zone)


def _warn_of_fault(sensor: Sensor, message: str) -> None:
    log_once(
        "%s could not be read (%s); the gap is filled with its last power and counted in gap_s",
        sensor.device.name,
        message,
        about=sensor.device.id,
    )


def _warn_of_place(session: Session) -> None:
    grid = session.factor.intensity
    if session.settings.zone is None and grid.zone == WORLD:
        log_once(
            "no zone set: emissions use the world average of %.0f g/kWh (%s), which may be off by 100%%; "
            "set instrument(zone='FR') or CARBON_OTEL_ZONE to your country, or region= to your cloud region; %s",
            grid.g_per_kwh,
            grid.source,
            here.hint() or "no file of this machine names its cloud",
        )


def _warn_of_gaps(session: Session) -> None:
    for finding in session.discovery.findings:
        if finding.unmetered:
            log_once(
                "%s is not in the figures: %s (%s); `carbon-otel doctor` shows the fix",
                finding.component,
                finding.found,
                finding.reason,
                about=(finding.component, finding.reason),
            )

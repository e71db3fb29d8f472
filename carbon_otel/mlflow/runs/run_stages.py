"""MLflow runs as stages: a run has a stage from the time when work can belong to it, until it ends."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Literal

from carbon_otel.background import Worker
from carbon_otel.guard import contain, log_once, logger
from carbon_otel.mlflow import compat
from carbon_otel.mlflow.runs.ends_elsewhere import EndsElsewhere
from carbon_otel.mlflow.runs.orphans import reconcile
from carbon_otel.mlflow.runs.recorder import RunRecorder
from carbon_otel.mlflow.schema import names
from carbon_otel.stages.engine import Engine
from carbon_otel.stages.open_stage import OpenStage, current
from carbon_otel.stages.run_lines import Run, RunLines

# The end of a run waits at most this long for its totals, because most programs read a run right after its
# end. It does not wait for a server that is unreachable.
_END_WAIT_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Begun:
    """A run that has begun: created or resumed, by whatever API.

    Attributes:
        parent_run_id: the run that it is nested in.
        store: the tracking store that has it.
        resumed: whether it may have figures already.
        start_ms: milliseconds since the epoch.
    """

    run_id: str
    name: str
    store: Any
    experiment_id: str
    start_ms: int
    parent_run_id: str | None = None
    resumed: bool = False


class RunStages:
    """The open runs of this process, and their stages."""

    def __init__(
        self,
        engine: Engine,
        recorder: RunRecorder,
        active_ids: Callable[[], Sequence[str]] = compat.active_run_ids,
    ) -> None:
        self._engine = engine
        self._recorder = recorder
        self._active_ids = active_ids
        self._lines = RunLines(active_ids)
        self._begun: dict[str, Begun] = {}
        self._reconciled: weakref.WeakSet[Any] = weakref.WeakSet()
        engine.runs.active, engine.runs.entered = self._active, self._entered
        ends = EndsElsewhere(self._charged_by_client, self.run_found_ended)
        engine.before_tick += [self._bury, ends.before_tick]

    def run_started(self, begun: Begun, *, here: bool = True) -> None:
        """A run has begun; `here`, if the thread or task that calls this did that."""
        outer = self._begun.get(begun.parent_run_id or "")
        if outer is not None and not begun.resumed and begun.start_ms <= outer.start_ms:
            return  # a run that an autologged search records after its end
        self._begun.setdefault(begun.run_id, begun)
        self._reconcile(begun.run_id, begun.store)
        self._settle(self._lines.begin(begun.run_id, begun.parent_run_id, current.get(), here=here))

    def run_entered(self, run_id: str) -> None:
        """MLflow makes a run active in this thread."""
        changed = self._lines.enter(run_id)
        if changed:
            self._bring_here(changed[-1])
        self._settle(changed)

    def run_ended(self, run_id: str) -> Callable[[], None] | None:
        """A run ends; the result takes that back. None if the run is not open."""
        begun = self._end(run_id)
        if begun is None:
            return None
        self._recorder.wait(run_id, _END_WAIT_S)
        return partial(self._not_ended, begun)

    def run_found_ended(self, run_id: str) -> None:
        """The store says that a run has ended, which another process may have done.

        A run that MLflow calls active in a thread of this process goes on until this process ends it.
        """
        if not self._lines.is_entered(run_id):
            self._end(run_id)

    def experiment_ended(self, store: Any, experiment_id: str) -> Callable[[], None] | None:
        """All runs of an experiment end; the result takes that back."""
        address = compat.location_of(store)
        undos = [
            self.run_ended(begun.run_id)
            for begun in list(self._begun.values())
            if begun.experiment_id == experiment_id and compat.location_of(begun.store) == address
        ]

        def undo() -> None:
            for each in undos:
                if each is not None:
                    each()

        return undo

    def leave(self) -> list[Begun]:
        """Forget the runs, because the measurement ends; returns those that the next one may continue."""
        unfinished = [replace(begun, resumed=True) for begun in self._begun.values()]
        for begun in unfinished:
            run, _ = self._lines.end(begun.run_id)
            if run is not None:
                run.stage = None  # contexts of the program keep the run, and it would keep the measurement
        return unfinished

    def continue_with(self, unfinished: Sequence[Begun]) -> None:
        """Continue those runs that are still running. Asks their stores, in the background."""
        if unfinished:
            worker = Worker("carbon_otel continue")
            for begun in unfinished:
                worker.submit(partial(self._continue_if_running, begun))
            worker.close()

    def _continue_if_running(self, begun: Begun) -> None:
        try:
            info = compat.separate(begun.store).get_run(begun.run_id).info
        except Exception:  # noqa: BLE001 - stores raise different errors; the run may be deleted
            logger.debug("run %s is not continued", begun.run_id, exc_info=True)
            return
        if info.status == "RUNNING" and info.lifecycle_stage == "active" and self._engine.alive:
            self.run_started(begun, here=False)

    def _charged_by_client(self) -> list[Begun]:
        runs = [self._begun.get(run_id) for run_id in self._lines.begun_at_work()]
        return [begun for begun in runs if begun is not None]

    def _end(self, run_id: str) -> Begun | None:
        """Close the stage of a run; what continues the run, or None if it is not open."""
        run, changed = self._lines.end(run_id)
        begun = self._begun.pop(run_id, None)
        if run is None or begun is None:
            return None
        stage, run.stage = run.stage, None
        if stage is not None:
            self._engine.close(stage)
            begun = replace(begun, resumed=True)
        self._settle(changed)
        return begun

    def _not_ended(self, begun: Begun) -> None:
        self.run_started(begun)
        if begun.run_id in self._active_ids():
            self.run_entered(begun.run_id)

    def _active(self) -> OpenStage | None:
        if self._lines.over:
            contain("noticing the end of a thread", None, self._bury)
        run = self._lines.active()
        if run is None:
            return None
        if run.stage is None and not run.entered:
            # It was active in this thread before the measurement began.
            contain("entering an MLflow run", None, self.run_entered, run.id)
        return run.stage

    def _entered(self) -> OpenStage | Literal[False] | None:
        stage = self._lines.entered()
        if stage is False:
            log_once(
                "clients have created several MLflow runs here, and none is active, so a stage belongs to none of "
                "them; mlflow.start_run(run_id=...) makes one active"
            )
        return stage

    def _bury(self) -> None:
        self._settle(self._lines.bury())

    def _settle(self, runs: Sequence[Run]) -> None:
        """Open the stages of runs that are at work for the first time, and let the others rest."""
        for run in runs:
            if run.stage is not None:
                self._engine.settle_run(run.stage, partial(_is_at_work, run))
            elif run.at_work or run.entered:
                self._open(run)

    def _open(self, run: Run) -> None:
        begun = self._begun.get(run.id)
        if begun is None:
            return
        self._recorder.expect(run.id, begun.store, begun.resumed, begun.start_ms)
        token = current.set(run.above)
        try:
            stage = self._engine.open_run(run.id, begun.name, begun.parent_run_id)
        finally:
            current.reset(token)
        if stage is None:
            return
        run.stage = stage
        if self._begun.get(run.id) is None:  # another thread has ended it in the meantime
            self._engine.close(stage)
        elif not run.at_work:
            self._engine.settle_run(stage, partial(_is_at_work, run))

    def _bring_here(self, run: Run) -> None:
        """Open the stage of a run that is entered anew, if the stages around this place do not contain it."""
        above = current.get()
        stage = run.stage
        if stage is None:
            run.above = above
        elif (
            above is not None
            and above.engine is self._engine
            and above.open
            and not above.is_in(stage)
            and not stage.is_in(above)
        ):
            run.above, run.stage = above, None
            self._begun[run.id] = replace(self._begun[run.id], resumed=True)
            self._engine.close(stage)

    def _reconcile(self, run_id: str, store: Any) -> None:
        """End the runs that killed processes of this host left open: once per store, in the background."""
        if store in self._reconciled:
            return
        self._reconciled.add(store)
        # A thread for each store, since one may hang.
        worker = Worker("carbon_otel reconcile")
        worker.submit(lambda: _end_orphans(compat.client_of(compat.separate(store)), run_id))
        worker.close()


def _is_at_work(run: Run) -> bool:
    return run.at_work


def _end_orphans(client: Any, run_id: str) -> None:
    """End the orphans in the run's experiment, and those on the ledger."""
    try:
        experiments = [client.get_run(run_id).info.experiment_id]
        ledger = client.get_experiment_by_name(names.LEDGER)
        ended = reconcile(client, experiments + ([ledger.experiment_id] if ledger else []))
    except Exception:  # noqa: BLE001 - `carbon-otel mlflow reconcile` does the same and reports its errors
        logger.debug("the search for runs of killed processes failed", exc_info=True)
        return
    if ended:
        logger.info("%d runs of killed processes are marked as KILLED", len(ended))

"""The connection of a measurement with MLflow, and a map of this package.

================  ==========================================================================================
`schema/`         the names of metrics and tags, and the text of their values
`runs/`           MLflow runs as stages
`standalone/`     work outside of runs: predictions, and stages with a lineage
`delivery/`       upload to tracking stores, safe against a dead server and a kill
`traces`          stages in MLflow's own traces
`compat`          the private names of MLflow that carbon_otel uses
================  ==========================================================================================

Nothing here is imported before the program imports MLflow.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, MutableMapping, Sequence
from functools import partial
from types import ModuleType
from typing import Final, Protocol

from carbon_otel import clock, runtime
from carbon_otel.background import Worker
from carbon_otel.batch_job import job_of
from carbon_otel.config import Settings
from carbon_otel.footprint import Footprint
from carbon_otel.fork import renew_after_fork
from carbon_otel.guard import log_once
from carbon_otel.handover import Work
from carbon_otel.host.identity import identity
from carbon_otel.instrumentation.base import Undo, undo_all
from carbon_otel.mlflow import compat
from carbon_otel.mlflow.delivery.joined_file import JoinedFiles
from carbon_otel.mlflow.delivery.worker import DeliveryWorker
from carbon_otel.mlflow.runs import joined_runs, tracking_hook
from carbon_otel.mlflow.runs.rank_runs import RankEnds, RankRuns
from carbon_otel.mlflow.runs.recorder import RunRecorder
from carbon_otel.mlflow.runs.run_stages import Begun, RunStages
from carbon_otel.mlflow.schema import names
from carbon_otel.mlflow.standalone import pyfunc_hook
from carbon_otel.mlflow.standalone.inference import InferenceLedger, Predictions
from carbon_otel.mlflow.standalone.stages import StandaloneStages
from carbon_otel.mlflow.traces import MlflowTraces
from carbon_otel.records import StageInfo
from carbon_otel.sinks import Pending, Sink
from carbon_otel.stages.engine import Engine
from carbon_otel.stages.open_runs import OpenRuns


class Measurement(Protocol):
    """The interface of a measurement that this package uses."""

    @property
    def settings(self) -> Settings: ...

    @property
    def engine(self) -> Engine: ...

    @property
    def delivery(self) -> Worker: ...

    @property
    def hardware(self) -> str: ...

    def trace_id(self, stage: StageInfo) -> str | None: ...

    def inject(self, environment: MutableMapping[str, str]) -> None: ...

    def add_sink(self, sink: Sink) -> None: ...

    def on_change(self, call: Callable[[], object]) -> None:
        """Have it called whenever the settings have changed."""


class Room:
    """The MLflow part of one measurement."""

    def __init__(self, measurement: Measurement) -> None:
        self.measurement = measurement
        settings, engine, delivery = measurement.settings, measurement.engine, measurement.delivery
        self._state_dir = settings.state_dir
        self._process = process = identity()
        self._tags = tags = partial(_tags, measurement, measurement.hardware, process)
        self.worker = DeliveryWorker(settings.state_dir / "mlflow")
        self.recorder = recorder = RunRecorder(
            self.worker,
            JoinedFiles(settings.state_dir / "mlflow"),
            delivery,
            engine.devices,
            engine.to_footprint,
            tags,
            measurement.trace_id,
            process=process,
            efficiency_metric=settings.efficiency_metric,
        )
        ledger = InferenceLedger(self.worker, delivery, tags)
        self.runs = RunStages(engine, recorder)
        self.predictions = Predictions(engine, ledger, process=process)
        engine.before_tick.append(self.predictions.before_tick)
        self._standalone: StandaloneStages | None = None
        self._traces: MlflowTraces | None = None
        for sink in (recorder, ledger):
            measurement.add_sink(sink)
        self._follow_settings()
        measurement.add_sink(_Delivered(delivery, self.worker, engine.runs))
        measurement.on_change(self._follow_settings)

    def _follow_settings(self) -> None:
        measurement = self.measurement
        settings, engine = measurement.settings, measurement.engine
        self.recorder.efficiency_metric = settings.efficiency_metric
        if settings.lineage and self._standalone is None:
            self._standalone = StandaloneStages(
                self.worker,
                measurement.delivery,
                len(engine.devices),
                engine.to_footprint,
                self._tags,
                process=self._process,
            )
            measurement.add_sink(self._standalone)
        if settings.mlflow_traces and self._traces is None:
            self._traces = MlflowTraces()
            measurement.add_sink(self._traces)
        if self._traces is not None:
            self._traces.wanted = settings.mlflow_traces
        if settings.state_dir != self._state_dir:
            log_once(
                "state_dir stays %s, where checkpoints are already: name it in the first call of instrument()",
                self._state_dir,
            )


class _Delivered(Sink):
    """Has the batches of the other sinks uploaded once the delivery thread has made them, and waits for that.

    The upload does not begin with the wait: a sink that is waited for before may take all of the time.
    """

    def __init__(self, delivery: Worker, worker: DeliveryWorker, runs: OpenRuns) -> None:
        self._delivery = delivery
        self._worker = worker
        self._runs = runs

    def place(self) -> str:
        runs, stores = self._runs, " and ".join(self._worker.addresses)
        if not runs.begun:
            return f"MLflow ({stores})" if stores else ""
        which = f"{runs.begun} runs" if runs.begun > 1 else f"run {runs.last_name}"
        return f"{which} in MLflow" + (f" ({stores})" if stores else "")

    def flush(self, timeout_s: float) -> Pending:
        return partial(self._wait, self._delivery.submit(self._worker.begin_flush), self._worker.wait)

    def close(self, timeout_s: float) -> Pending:
        return partial(self._wait, self._delivery.submit(self._worker.begin_close), self._close)

    def _wait(self, made: threading.Event, upload: Callable[[float], bool], timeout_s: float) -> bool:
        deadline = clock.monotonic() + timeout_s
        return made.wait(timeout_s) and upload(max(0.0, deadline - clock.monotonic()))

    def _close(self, timeout_s: float) -> bool:
        self._worker.close(timeout_s)
        return True


class _Tracking:
    """Connects when MLflow's client is imported; from then on, runs are stages."""

    module = compat.TRACKING_CLIENT_MODULE

    def attach(self, session: Measurement) -> None:
        _attach(session)

    def connect(self, module: ModuleType) -> Undo:
        undo = undo_all([_leave, tracking_hook.patch(module, _runs)])
        runs = _runs()
        if runs is not None:
            runs.continue_with(_unfinished)
        return undo


class _Fluent:
    """Connects when MLflow's fluent API is imported; from then on, the active run of each thread is known."""

    module = compat.FLUENT_MODULE

    def attach(self, session: Measurement) -> None:
        _attach(session)

    def connect(self, module: ModuleType) -> Undo:
        return tracking_hook.patch_fluent(module, _runs)


class _PyFunc:
    """Connects when MLflow's models are imported; from then on, predictions are measured."""

    module = pyfunc_hook.MODULE

    def attach(self, session: Measurement) -> None:
        _attach(session)

    def connect(self, module: ModuleType) -> Undo:
        return pyfunc_hook.patch(module, _predictions)


TRACKING: Final = _Tracking()
FLUENT: Final = _Fluent()
PYFUNC: Final = _PyFunc()

_room: Room | None = None
# The runs that were open at the end of the former measurement.
_unfinished: Sequence[Begun] = ()
_lock = threading.Lock()


def _attach(measurement: Measurement) -> None:
    """Build this package for a measurement, once."""
    global _room
    with _lock:
        if _room is None or _room.measurement is not measurement:
            _room = Room(measurement)


def join(measurement: Measurement, run_id: str, address: str) -> Callable[[], None] | None:
    """Work for a run of another process begins; the result ends it. MLflow need not be imported.

    `address` is that of the run's store. Called on the thread that does the work.
    """
    _attach(measurement)
    room = _room
    if room is None or room.measurement is not measurement:
        return None
    return joined_runs.join(measurement.engine, room.recorder, run_id, address)


def rank_runs(measurement: Measurement, adopt: Callable[[Work | None], None]) -> RankRuns | None:
    """Keeps this rank of a training in the run of rank 0; MLflow need not be imported.

    `adopt` puts the spans that open later below those of a work.
    """
    _attach(measurement)
    room = _room
    if room is None or room.measurement is not measurement:
        return None
    ranks = RankRuns(measurement.engine, room.recorder, measurement.inject, adopt)
    measurement.add_sink(ranks)
    measurement.add_sink(RankEnds(ranks))
    ranks.begin()
    return ranks


def _leave() -> None:
    """The measurement is over: it can be collected."""
    global _room, _unfinished
    with _lock:
        if _room is not None:
            _unfinished = _room.runs.leave()
        _room = None


def _renew() -> None:
    """In a forked child: the thread that held the lock does not exist there, and the runs are the parent's."""
    global _lock, _unfinished
    _lock = threading.Lock()
    _unfinished = ()


renew_after_fork(_renew)


def _present() -> Room | None:
    """The room of the active measurement; in a forked child, of the child's own measurement."""
    active: object = runtime.active()
    return _room if active is not None and _room is not None and _room.measurement is active else None


def _runs() -> RunStages | None:
    room = _present()
    return room.runs if room is not None else None


def _predictions() -> Predictions | None:
    room = _present()
    return room.predictions if room is not None else None


def _tags(
    measurement: Measurement,
    hardware: str,
    process: str,
    footprint: Footprint,
    status: str,
    trace_id: str | None,
) -> dict[str, str]:
    settings = measurement.settings
    return names.provenance_tags(
        footprint,
        status=status,
        hardware=hardware,
        attribution=settings.attribution,
        trace_id=trace_id,
        trace_url=settings.trace_url,
        lineage=settings.lineage,
        process=process,
        job=job_of(),
    )

"""Inference outside of runs, recorded on the ledger of the served model.

One prediction takes a fraction of a millisecond, which is too short to be measured separately. So each model
has a stage, `inference`. It is open from a prediction until the first tick interval without one. Its energy
goes to a run in the MLflow experiment `carbon-ledger`: one run per process, model and hour. The run is
written at every checkpoint, so a killed replica loses at most its last checkpoint and no run grows without
bound.
"""

from __future__ import annotations

import sys
import threading
import time
import uuid
from collections.abc import Callable
from contextvars import Token
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from carbon_otel import clock
from carbon_otel.background import Worker
from carbon_otel.fork import renew_after_fork
from carbon_otel.guard import log_once
from carbon_otel.mlflow import compat
from carbon_otel.mlflow.delivery.segment import Segment
from carbon_otel.mlflow.delivery.spool import LedgerRun
from carbon_otel.mlflow.delivery.worker import DeliveryWorker
from carbon_otel.mlflow.runs.recorder import Tags
from carbon_otel.records import Cost, StageInfo
from carbon_otel.sinks import Figures, Sink, StageEnd, Tick
from carbon_otel.stages.engine import Engine
from carbon_otel.stages.open_stage import OpenStage, current, leave
from carbon_otel.units import NS_PER_MS, NS_PER_S, S_PER_H

_KIND: Final = "inference"
_WINDOW_S: Final = S_PER_H


@dataclass(slots=True)
class Window:
    """An hour of one model in this process, for one store. `in_flight` is the number of running predictions."""

    stage: OpenStage
    segment: Segment
    ends: float
    in_flight: int = 0
    calls: int = 0
    rows: int = 0
    touched: bool = True
    paused: bool = False


class Predictions:
    """Opens, pauses and ends the stages. `predicting` and `predicted` enclose a prediction, on its thread."""

    def __init__(
        self,
        engine: Engine,
        ledger: InferenceLedger,
        *,
        process: str,
        clock: Callable[[], float] = clock.monotonic,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """`process` identifies this process among all processes that write to the ledger."""
        self._engine = engine
        self._ledger = ledger
        self._process = process
        self._clock = clock
        self._wall_ns = wall_ns
        # By model, source run and tracking URI.
        self._windows: dict[tuple[str | None, str | None, str], Window] = {}
        self._lock = threading.RLock()
        renew_after_fork(self._renew)

    def _renew(self) -> None:
        """In a forked child: the thread that held the lock does not exist there."""
        self._lock = threading.RLock()

    def predicting(
        self, model_id: str | None, source_run_id: str | None
    ) -> tuple[Window, Token[OpenStage | None]] | None:
        """Begin a prediction; None if it belongs to a stage or a run of the application."""
        if self._engine.parent_of(current.get()) is not None:
            return None
        key = model_id, source_run_id, compat.explicit_tracking_uri()
        with self._lock:
            window = self._windows.get(key)
            if window is None or not window.stage.open:
                window = self._windows[key] = self._open(*key)
            window.in_flight += 1
            window.touched = True
            if window.paused:
                window.paused = False
                self._engine.resume(window.stage)
        return window, current.set(window.stage)

    def predicted(self, window: Window, token: Token[OpenStage | None], rows: int, calls: int = 1) -> None:
        with self._lock:
            window.in_flight -= 1
            window.calls += calls
            window.rows += rows
            window.stage.units.update(requests=float(window.calls), rows=float(window.rows))
        leave(window.stage, None if token.old_value is Token.MISSING else token.old_value)

    def before_tick(self) -> None:
        """Pause stages without a prediction since the last tick, and end the windows whose hour is over."""
        now = self._clock()
        with self._lock:
            over = [(k, w) for k, w in self._windows.items() if now >= w.ends and not w.in_flight]
            for key, _ in over:
                del self._windows[key]
            for window in self._windows.values():
                idle = not window.in_flight and not window.touched
                window.touched = False
                if idle and not window.paused:
                    window.paused = True
                    self._engine.pause(window.stage)
        for _, window in over:
            self._engine.close(window.stage)

    def _open(self, model_id: str | None, source_run_id: str | None, uri: str) -> Window:
        now, start_ns = self._clock(), self._wall_ns()
        name = model_id or source_run_id or "model"
        # The id is deterministic and unique to this window: a retry finds the run that it created.
        own = f"{self._process}/{start_ns}/{model_id}/{source_run_id}"
        ledger_run = LedgerRun(
            entry_id=str(uuid.uuid5(uuid.NAMESPACE_OID, own)),
            name=f"{_KIND} {name}",
            start_ms=start_ns // NS_PER_MS,
            model_id=model_id,
            source_run_id=source_run_id,
        )
        stage = self._engine.open(_KIND, name, {}, recorded=True)
        segment = Segment(stage.info.id, start_ns / NS_PER_S, ledger_run=ledger_run, clock_s=now)
        self._ledger.begin(stage.info, segment, uri)
        return Window(stage, segment, now + _WINDOW_S)


class InferenceLedger(Sink):
    """Writes each window at every checkpoint and at its end."""

    def __init__(
        self,
        worker: DeliveryWorker,
        delivery: Worker,
        tags: Tags,
        clock: Callable[[], float] = clock.monotonic,
    ) -> None:
        self._worker = worker
        self._delivery = delivery
        self._tags = tags
        self._clock = clock
        self._segments: dict[StageInfo, tuple[Segment, str]] = {}

    def begin(self, stage: StageInfo, segment: Segment, uri: str) -> None:
        """Record the figures of this stage in the segment, for this URI, by default that of MLflow."""
        if not uri and not has_a_store():
            return
        # Start the thread now: none can be started at interpreter exit.
        self._delivery.submit(self._worker.begin)
        self._segments[stage] = segment, uri or compat.tracking_uri()

    def stage_closed(self, stage: StageInfo, end: StageEnd) -> None:
        begun = self._segments.pop(stage, None)
        if begun is not None:
            self._delivery.submit(partial(self._write, *begun, end.figures, self._clock(), final=True))

    def tick(self, tick: Tick) -> None:
        if tick.checkpoint is None:
            return
        for stage, (segment, uri) in list(self._segments.items()):
            figures = tick.checkpoint.open.get(stage)
            if figures is not None:
                write = partial(self._write, segment, uri, figures, self._clock(), final=False)
                self._delivery.submit_latest(segment, write)

    def _write(self, segment: Segment, uri: str, figures: Figures, now: float, *, final: bool) -> None:
        if segment.ended:
            return
        inclusive = figures.footprint
        costs = {_KIND: Cost(inclusive.energy_j, inclusive.emissions_g)}
        made = inclusive.embodied
        footprint = replace(inclusive, stages=costs, embodied=made and made._replace(by_kind={_KIND: made.g}))
        units = {f"{_KIND}/{unit}": amount for unit, amount in footprint.units.items()}
        tags = self._tags(footprint, "final" if final else "running", None)
        self._worker.put(segment.state(footprint, tags, now, units=units, final=final), uri)


def has_a_store() -> bool:
    """False in a process that has not imported MLflow, and only adds to a run of another.

    Also if no tracking URI is set in a serving process: MLflow's default folder is lost with its image.
    """
    mlflow: Any = sys.modules.get("mlflow")
    if mlflow is None:
        return False
    if compat.is_serving() and not mlflow.is_tracking_uri_set():
        log_once(
            "predictions are measured, but their energy is not on the ledger of the model: set "
            "MLFLOW_TRACKING_URI in the serving process",
        )
        return False
    return True

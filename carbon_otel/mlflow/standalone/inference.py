"""Inference outside of runs, on the ledger of its model.

One prediction takes a fraction of a millisecond: too short to be read by itself. So each model has a stage,
`inference`, that is open from a prediction until a tick finds none since the one before. Its energy goes to an
entry run of MLflow, in the experiment `carbon-ledger`: one per process, model and hour, written at every
checkpoint, so that a replica that is killed costs its last checkpoint and no run grows for ever.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import uuid
from collections.abc import Callable
from contextvars import Token
from dataclasses import dataclass, replace
from typing import Any, Final

from carbon_otel.footprint import Footprint
from carbon_otel.fork import renew_after_fork
from carbon_otel.guard import log_once
from carbon_otel.meter.meter import Snapshot
from carbon_otel.mlflow.delivery.spool import Batch, LedgerRun
from carbon_otel.mlflow.delivery.worker import DeliveryWorker
from carbon_otel.mlflow.runs.checkpoint import Series
from carbon_otel.mlflow.schema import names
from carbon_otel.sinks import Sink
from carbon_otel.stages.engine import Engine, OpenStage, current

_KIND: Final = "inference"
_WINDOW_S: Final = 3600.0


@dataclass(slots=True)
class Window:
    """An hour of one model in this process. `in_flight` predictions are running, `idle` since the last tick."""

    entry: LedgerRun
    stage: OpenStage
    due: float
    ends: float
    series: Series
    in_flight: int = 0
    calls: int = 0
    rows: int = 0
    touched: bool = True
    paused: bool = False
    final: bool = False
    step: int = 0


class Serving(Sink):
    """Counts predictions; `predicting` and `predicted` frame one, on the thread that makes it."""

    def __init__(
        self,
        engine: Engine,
        footprint: Callable[[OpenStage], Footprint],
        tags: Callable[[Footprint, str, OpenStage], dict[str, str]],
        writer: DeliveryWorker,
        *,
        checkpoint_s: float,
        process: str,
        clock: Callable[[], float] = time.monotonic,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """`tags` says where a footprint comes from; `process` tells this process from all others."""
        self._engine = engine
        self._footprint = footprint
        self._tags = tags
        self._writer = writer
        self._checkpoint_s = checkpoint_s
        self._process = process
        self._clock = clock
        self._wall_ns = wall_ns
        self._windows: dict[tuple[str | None, str | None], Window] = {}
        self._lock = threading.Lock()
        # The order of a window's states: after its last there is no other, whichever thread writes it.
        self._writing = threading.Lock()
        renew_after_fork(self._renew)

    def _renew(self) -> None:
        """In a forked child: the thread that held a lock does not exist there."""
        self._lock, self._writing = threading.Lock(), threading.Lock()

    def predicting(
        self, model_id: str | None, source_run_id: str | None
    ) -> tuple[Window, Token[OpenStage | None]] | None:
        """None where a stage or a run of the application pays for it."""
        if self._engine.parent_of(current.get()) is not None:
            return None
        with self._lock:
            window = self._windows.get((model_id, source_run_id))
            if window is None:
                window = self._windows[model_id, source_run_id] = self._open(model_id, source_run_id)
            window.in_flight += 1
            window.touched = True
            if window.paused:
                window.paused = False
                self._engine.resume(window.stage)
        return window, current.set(window.stage)

    def predicted(self, window: Window, token: Token[OpenStage | None], rows: int, calls: int = 1) -> None:
        current.reset(token)
        with self._lock:
            window.in_flight -= 1
            window.calls += calls
            window.rows += rows

    def tick(self, snapshot: Snapshot) -> None:
        now = self._clock()
        for key, window in list(self._windows.items()):
            with self._lock:
                idle = not window.in_flight and not window.touched
                window.touched = False
                if idle and not window.paused:
                    window.paused = True
                    self._engine.pause(window.stage)
                over = now >= window.ends and not window.in_flight
                if over:
                    del self._windows[key]
            if over:
                self._write(window, "final")
            elif now >= window.due:
                window.due = now + self._checkpoint_s
                self._write(window, "running")

    def flush(self, timeout_s: float) -> bool:
        for window in list(self._windows.values()):
            self._write(window, "running")
        return True

    def close(self, timeout_s: float) -> None:
        windows, self._windows = list(self._windows.values()), {}
        for window in windows:
            self._write(window, "final")

    def _open(self, model_id: str | None, source_run_id: str | None) -> Window:
        self._writer.begin()
        stage = self._engine.open(_KIND, model_id or source_run_id or "model", {})
        stage.marks[self] = True  # it has an entry of its own
        now, start_ns = self._clock(), self._wall_ns()
        # Made of what is this window's alone, so that writing it again finds it.
        own = f"{self._process}/{start_ns}/{model_id}/{source_run_id}"
        entry = LedgerRun(
            entry_id=str(uuid.uuid5(uuid.NAMESPACE_OID, own)),
            name=f"inference {stage.name}",
            start_ms=start_ns // 1_000_000,
            model_id=model_id,
            source_run_id=source_run_id,
        )
        return Window(entry, stage, now + self._checkpoint_s, now + _WINDOW_S, Series(start_ns / 1e9))

    def _write(self, window: Window, status: str) -> None:
        with self._writing:
            if not window.final:
                self._put(window, status)
                window.final = status == "final"

    def _put(self, window: Window, status: str) -> None:
        stage = window.stage
        units = {"requests": float(window.calls), "rows": float(window.rows)}
        if status == "final":
            stage.units.update(units)
            self._engine.close(stage)
        if not has_a_store():
            return
        f = self._footprint(stage)
        f = replace(f, stages={_KIND: (f.energy_j, f.emissions_g)})
        wall_ns = self._wall_ns()
        point = window.series.point(
            f, {}, {f"{_KIND}/{unit}": amount for unit, amount in units.items()}, wall_ns / 1e9
        )
        # At an hour of one replica nobody looks by itself: its kWh are left out.
        values = {n: v for n, v in point.values.items() if not n.endswith(("_kwh", "_kg"))}
        said = self._tags(f, status, stage) | window.entry.model() | {names.HOURLY: point.hourly}
        values, tags = names.packed(values, said)
        window.step += 1
        self._writer.put(
            Batch(
                run_id="",
                segment=stage.sequence,
                values=values,
                tags=tags,
                step=window.step,
                timestamp_ms=point.timestamp_ms,
                final=status == "final",
                entry=window.entry,
            )
        )


def has_a_store() -> bool:
    """Where a model is served from an image, MLflow's default is a folder that is gone with it."""
    mlflow: Any = sys.modules["mlflow"]
    if os.environ.get("_MLFLOW_IS_IN_SERVING_ENVIRONMENT") and not mlflow.is_tracking_uri_set():
        log_once(
            "predictions are measured, but MLFLOW_TRACKING_URI is not set where they are served: their "
            "energy is not on the ledger of the model",
        )
        return False
    return True

"""Inference outside of runs, on the ledger of its model.

One prediction takes a fraction of a millisecond: too short to be read by itself. So each model has a stage,
`inference`, that is open from a prediction until a tick finds none since the one before. Its energy goes to an
entry run of MLflow, in the experiment `carbon-ledger`: one per process, model and hour, written at every
checkpoint, so that a replica that is killed costs its last checkpoint and no run grows for ever.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable
from contextvars import Token
from dataclasses import dataclass, field, replace
from typing import Any, Final

from carbon_otel.background import Worker
from carbon_otel.faults import contain, warn_once
from carbon_otel.footprint import Footprint
from carbon_otel.meter.meter import Snapshot
from carbon_otel.mlflow import naming
from carbon_otel.sinks import Sink
from carbon_otel.stages.engine import Engine, OpenStage, current

LEDGER: Final = "carbon-ledger"
_KIND: Final = "inference"
_WINDOW_S: Final = 3600.0


@dataclass(slots=True)
class Window:
    """An hour of one model in this process. `in_flight` predictions are running, `idle` since the last tick."""

    model_id: str | None
    source_run_id: str | None
    stage: OpenStage
    due: float
    ends: float
    entry_id: str
    start_ms: int
    in_flight: int = 0
    calls: int = 0
    rows: int = 0
    touched: bool = True
    paused: bool = False
    run_id: str | None = None
    step: int = 0
    written: threading.Event = field(default_factory=threading.Event)


class Serving(Sink):
    """Counts predictions; `predicting` and `predicted` frame one, on the thread that makes it."""

    def __init__(
        self,
        engine: Engine,
        footprint: Callable[[OpenStage], Footprint],
        tags: Callable[[Footprint, str], dict[str, str]],
        checkpoint_s: float,
    ) -> None:
        self._engine = engine
        self._footprint = footprint
        self._tags = tags
        self._checkpoint_s = checkpoint_s
        self._windows: dict[tuple[str | None, str | None], Window] = {}
        self._lock = threading.Lock()
        self._worker: Worker | None = None

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
        now = time.monotonic()
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
        windows = list(self._windows.values())
        for window in windows:
            self._write(window, "running")
        deadline = time.monotonic() + timeout_s
        return all(window.written.wait(max(0.0, deadline - time.monotonic())) for window in windows)

    def close(self, timeout_s: float) -> None:
        windows, self._windows = list(self._windows.values()), {}
        for window in windows:
            self._write(window, "final")
        deadline = time.monotonic() + timeout_s
        for window in windows:
            window.written.wait(max(0.0, deadline - time.monotonic()))
        if self._worker is not None:
            self._worker.close()

    def _open(self, model_id: str | None, source_run_id: str | None) -> Window:
        stage = self._engine.open(_KIND, model_id or source_run_id or "model", {})
        now, start_ns = time.monotonic(), time.time_ns()
        # Made of what is this window's alone, so that writing it again finds it.
        own = f"{socket.gethostname()}/{os.getpid()}/{start_ns}/{model_id}/{source_run_id}"
        entry_id = str(uuid.uuid5(uuid.NAMESPACE_OID, own))
        return Window(
            model_id,
            source_run_id,
            stage,
            now + self._checkpoint_s,
            now + _WINDOW_S,
            entry_id,
            start_ns // 1_000_000,
        )

    def _write(self, window: Window, status: str) -> None:
        stage = window.stage
        units = {"requests": float(window.calls), "rows": float(window.rows)}
        if status == "final":
            stage.units.update(units)
            self._engine.close(stage)
        f = self._footprint(stage)
        f = replace(f, stages={_KIND: (f.energy_j, f.emissions_g)})
        values = naming.metrics(f, units={f"{_KIND}/{unit}": amount for unit, amount in units.items()})
        values |= naming.rates(values)
        tags = {**self._tags(f, status), "carbon.measured_fraction": f"{f.measured_fraction:.4f}"}
        window.step += 1
        step, stamp_ms = window.step, int(time.time() * 1000)
        window.written.clear()
        self._worker = self._worker or Worker("carbon_otel ledger")
        self._worker.submit(
            lambda: contain("writing the ledger", self._log, None, window, values, tags, step, stamp_ms)
        )

    def _log(
        self, window: Window, values: dict[str, float], tags: dict[str, str], step: int, stamp_ms: int
    ) -> None:
        """On the worker's thread. What cannot be written is in the next checkpoint: the figures are sums."""
        mlflow: Any = sys.modules["mlflow"]
        entities: Any = sys.modules["mlflow.entities"]
        try:
            if os.environ.get("_MLFLOW_IS_IN_SERVING_ENVIRONMENT") and not mlflow.is_tracking_uri_set():
                warn_once(
                    "ledger",
                    "predictions are measured, but MLFLOW_TRACKING_URI is not set where they are served: their "
                    "energy is not on the ledger of the model",
                )
                return
            client = mlflow.MlflowClient()
            if window.run_id is None:
                window.run_id = self._entry(client, window)
            client.log_batch(
                window.run_id,
                [entities.Metric(name, value, stamp_ms, step) for name, value in values.items()],
                tags=[entities.RunTag(name, value) for name, value in tags.items()],
            )
            if tags["carbon.status"] == "final":
                client.set_terminated(window.run_id)
        except Exception as error:  # noqa: BLE001 - whatever the store raises, predictions go on
            warn_once(
                "ledger",
                f"MLflow did not take the energy of predictions ({type(error).__name__}: {error}); trying again "
                "at the next checkpoint",
            )
        finally:
            window.written.set()

    def _entry(self, client: Any, window: Window) -> str:
        """The entry's run: the one that an answer lost on its way has left, or a new one."""
        found = client.get_experiment_by_name(LEDGER)
        experiment_id = found.experiment_id if found else _created(client)
        wanted = f"tags.`{naming.ENTRY}` = '{window.entry_id}'"
        for run in client.search_runs([experiment_id], wanted, max_results=1):
            return str(run.info.run_id)
        name = f"inference {window.stage.name}"
        tags = {naming.ENTRY: window.entry_id, "carbon.stage": _KIND, "mlflow.runName": name}
        tags |= _lineage(client, window)
        return str(client.create_run(experiment_id, start_time=window.start_ms, tags=tags).info.run_id)


def _created(client: Any) -> str:
    try:
        return str(client.create_experiment(LEDGER))
    except Exception:
        found = client.get_experiment_by_name(LEDGER)  # another replica was first
        if found is None:
            raise
        return str(found.experiment_id)


def _lineage(client: Any, window: Window) -> dict[str, str]:
    """Which model this is inference of, and where that was made."""
    tags = {}
    if window.model_id:
        tags[naming.MODEL] = window.model_id
    source = window.source_run_id
    if source is None and window.model_id:
        source = client.get_logged_model(window.model_id).source_run_id
    if source:
        run = client.get_run(source)
        tags |= {naming.SOURCE_RUN: source, naming.SOURCE_EXPERIMENT: run.info.experiment_id}
        lineage = run.data.tags.get(naming.LINEAGE)
        if lineage:
            tags[naming.LINEAGE] = lineage
    return tags

"""MLflow runs as stages: a run that begins opens a stage, and its end closes it."""

from __future__ import annotations

import sys
from typing import Any, Final

from carbon_otel.background import Worker
from carbon_otel.guard import logger
from carbon_otel.mlflow.runs.orphans import reconcile
from carbon_otel.mlflow.runs.recorder import RunRecorder
from carbon_otel.mlflow.schema import names
from carbon_otel.stages.engine import Engine
from carbon_otel.stages.open_stage import OpenStage

# A run's end waits so long for its totals: most programs read a run right after its end. A slow server costs no
# more, one that is away costs nothing.
_END_WAIT_S: Final = 0.2


class RunStages:
    """The stages of the runs that this process has open."""

    def __init__(self, engine: Engine, recorder: RunRecorder) -> None:
        self._engine = engine
        self._recorder = recorder
        self._stages: dict[str, OpenStage] = {}
        self._reconciled = False

    def run_started(
        self, run_id: str, name: str, parent_run_id: str | None, store: Any, resumed: bool, start_ms: int
    ) -> None:
        if run_id in self._stages:
            return
        outer = self._stages.get(parent_run_id or "")
        if outer is not None and start_ms <= outer.info.start_unix_ns // 1_000_000:
            return  # an autologged search records, when it is over, runs that began with it
        self._recorder.expect(run_id, store, resumed)
        stage = self._engine.open_run(run_id, name, parent_run_id)
        if stage is not None:
            self._stages[run_id] = stage
            self._reconcile(run_id)

    def run_ended(self, run_id: str) -> None:
        stage = self._stages.pop(run_id, None)
        if stage is not None:
            self._engine.close(stage)
            self._recorder.wait(run_id, _END_WAIT_S)

    def _reconcile(self, run_id: str) -> None:
        """Once a process: end the runs that killed processes of this host have left open, in the background."""
        client: Any = getattr(sys.modules.get("mlflow"), "MlflowClient", None)
        if self._reconciled or client is None:
            return
        self._reconciled = True
        worker = Worker("carbon_otel reconcile")
        worker.submit(lambda: _end_orphans(client, run_id))
        worker.close()


def _end_orphans(client: Any, run_id: str) -> None:
    """In the experiment of a run that begins, and on the ledger of inference."""
    try:
        experiments = [client().get_run(run_id).info.experiment_id]
        ledger = client().get_experiment_by_name(names.LEDGER)
        ended = reconcile(client(), experiments + ([ledger.experiment_id] if ledger else []))
    except Exception:  # noqa: BLE001 - `carbon-otel mlflow reconcile` does it, too, and reports its errors
        logger.debug("runs of killed processes could not be looked for", exc_info=True)
        return
    if ended:
        logger.info("%d runs that killed processes had left open are marked as KILLED", len(ended))

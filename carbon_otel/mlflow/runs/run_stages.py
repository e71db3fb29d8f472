"""MLflow runs as stages: the start of a run opens a stage, and its end closes it."""

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
from carbon_otel.units import NS_PER_MS

# The end of a run waits at most this long for its totals, because most programs read a run right after its
# end. It does not wait for a server that is unreachable.
_END_WAIT_S: Final = 0.2


class RunStages:
    """The stages of the open runs of this process."""

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
        if outer is not None and start_ms <= outer.info.start_unix_ns // NS_PER_MS:
            return  # a run that an autologged search records after its end
        self._recorder.expect(run_id, store, resumed, start_ms)
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
        """End the runs that killed processes of this host left open: once per process, in the background."""
        client: Any = getattr(sys.modules.get("mlflow"), "MlflowClient", None)
        if self._reconciled or client is None:
            return
        self._reconciled = True
        worker = Worker("carbon_otel reconcile")
        worker.submit(lambda: _end_orphans(client, run_id))
        worker.close()


def _end_orphans(client: Any, run_id: str) -> None:
    """End the orphans in the run's experiment, and those on the ledger."""
    try:
        experiments = [client().get_run(run_id).info.experiment_id]
        ledger = client().get_experiment_by_name(names.LEDGER)
        ended = reconcile(client(), experiments + ([ledger.experiment_id] if ledger else []))
    except Exception:  # noqa: BLE001 - `carbon-otel mlflow reconcile` does the same and reports its errors
        logger.debug("the search for runs of killed processes failed", exc_info=True)
        return
    if ended:
        logger.info("%d runs of killed processes are marked as KILLED", len(ended))

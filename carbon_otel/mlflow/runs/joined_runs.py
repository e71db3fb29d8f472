"""Runs that another process has opened, while this process works for them.

The part of this process is a stage like that of a run of its own, so that it adds up in the same way. It never
ends the run or changes what the run says of itself. Between two tasks it is closed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextvars import Token
from functools import partial
from typing import Final

from carbon_otel.mlflow.runs.recorder import RunRecorder
from carbon_otel.stages.engine import Engine
from carbon_otel.stages.open_stage import OpenStage, current

# A pool may be terminated as soon as it has the result of its last task, so a task ends with its figures on disk.
# A disk that hangs delays it for this long.
_WAIT_S: Final = 0.1


def join(engine: Engine, recorder: RunRecorder, run_id: str, address: str) -> Callable[[], None] | None:
    """Work for the run begins on this thread; the result ends it. None if the run is open here already.

    `address` is that of the run's store.
    """
    if engine.runs.get(run_id) is not None:
        return None
    recorder.join(run_id, address)
    stage = engine.open_run(run_id, run_id, None, joined=True)
    if stage is None:
        return None
    return partial(_leave, engine, recorder, stage, current.set(stage))


def _leave(engine: Engine, recorder: RunRecorder, stage: OpenStage, token: Token[OpenStage | None]) -> None:
    with contextlib.suppress(ValueError, RuntimeError):  # the work began on another thread
        current.reset(token)
    if engine.alive:  # not in a child that was forked within the work
        engine.close(stage)
        recorder.wait_for_part(stage.info.run_id or "", _WAIT_S)

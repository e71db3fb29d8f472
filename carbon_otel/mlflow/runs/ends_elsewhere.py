"""Ends of runs that another process has brought about.

A run that a client has created may be ended by any process, and MLflow takes the figures of an ended run without
a word. So the store is asked once a minute about the runs that are charged, on a thread of ours. Runs that the
fluent API has active here end here: the store is not asked about them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Protocol

from carbon_otel import clock
from carbon_otel.background import Worker
from carbon_otel.guard import logger
from carbon_otel.mlflow import compat

_EVERY_S: Final = 60.0


class Charged(Protocol):
    """A run that is charged."""

    @property
    def run_id(self) -> str: ...

    @property
    def store(self) -> Any: ...


class EndsElsewhere:
    """Calls `ended` with the id of each of the `charged` runs that the store says to be over."""

    def __init__(self, charged: Callable[[], Sequence[Charged]], ended: Callable[[str], object]) -> None:
        self._charged = charged
        self._ended = ended
        self._due_s = clock.monotonic() + _EVERY_S
        # Set when the store has answered; a store that hangs is not asked again meanwhile.
        self._answered: threading.Event | None = None
        self._stores: dict[Any, Any] = {}

    def before_tick(self) -> None:
        now_s = clock.monotonic()
        if now_s < self._due_s or (self._answered is not None and not self._answered.is_set()):
            return
        self._due_s = now_s + _EVERY_S
        runs = self._charged()
        if runs:
            worker = Worker("carbon_otel run ends")
            self._answered = worker.submit(partial(self._ask, runs))
            worker.close()

    def _ask(self, runs: Sequence[Charged]) -> None:
        for run in runs:
            if run.store not in self._stores:
                self._stores[run.store] = compat.separate(run.store)
            try:
                info = self._stores[run.store].get_run(run.run_id).info
            except Exception:  # noqa: BLE001 - stores raise different errors; the upload reports them
                logger.debug("the state of run %s is not known", run.run_id, exc_info=True)
                continue
            if info.status not in compat.UNFINISHED or info.lifecycle_stage != "active":
                self._ended(run.run_id)

"""What a tracker or a task measures: all that the process uses, and a stage for its span."""

from __future__ import annotations

import asyncio

from carbon_otel.compat.codecarbon_columns import EmissionsData
from carbon_otel.footprint import NOT_MEASURED, Footprint
from carbon_otel.guard import contain
from carbon_otel.stages.api import Stage, recorder
from carbon_otel.stages.arguments import LONGEST_NAME
from carbon_otel.stages.window import Window


class Tracked:
    """Begins when it is made.

    As in CodeCarbon, the figures are those of the process between start and stop, whatever runs in it. What runs
    in other threads or cells is not in the stage. `emissions_data` are the figures of a task after its end.
    """

    def __init__(self, kind: str, name: str, run_id: str, *, in_block: bool) -> None:
        self.name = name
        self.emissions_data: EmissionsData | None = None
        active = recorder()
        self._window = None if active is None else contain("opening a window", None, Window, active.engine)
        self._stage: Stage | None = None
        # The end of a block finds the stage in the same context. A call in a task, such as a cell of a notebook,
        # would leave an open stage that is current nowhere, and yet shares the energy with all others.
        if in_block or not _in_task():
            attributes = {"codecarbon.run_id": run_id}
            self._stage = Stage(kind, name.strip()[:LONGEST_NAME] or kind, attributes=attributes).__enter__()

    @property
    def footprint(self) -> Footprint:
        """Final after the end, so far before."""
        window = self._window
        return (
            NOT_MEASURED if window is None else contain("reading a window", NOT_MEASURED, _footprint, window)
        )

    def end(self, error: BaseException | None) -> None:
        if self._stage is not None:
            self._stage.__exit__(None if error is None else type(error), error, None)
        if self._window is not None:
            contain("closing a window", None, self._window.close)


def _footprint(window: Window) -> Footprint:
    return window.footprint


def _in_task() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True

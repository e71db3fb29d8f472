"""The figures of open stages at one moment of the meter, and the checkpoints of those that are recorded."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from carbon_otel.meter.meter import EdgeState
from carbon_otel.records import StageInfo
from carbon_otel.sensors.base import Sensor
from carbon_otel.sinks import Checkpoint, Figures, ToFootprint
from carbon_otel.stages.accounts import Books
from carbon_otel.stages.open_stage import OpenStage, record_at


class Statements:
    """Made under the engine's lock. Each of the `recorded` stages has the joules of its last checkpoint."""

    def __init__(self, sensors: Sequence[Sensor], books: Books, to_footprint: ToFootprint) -> None:
        self._sensors = sensors
        self._books = books
        self.to_footprint = to_footprint
        self.recorded: dict[OpenStage, float | None] = {}

    def of(self, stage: OpenStage, edge: EdgeState) -> Figures:
        """The figures of a stage."""
        return Figures(
            record_at(stage, self._sensors, edge, self._books.totals(stage.account)), self.to_footprint
        )

    def of_runs_in(
        self, ending: OpenStage, runs: Iterable[OpenStage], edge: EdgeState
    ) -> dict[StageInfo, Figures]:
        """The figures of those runs that are open in a run that ends."""
        return {run.info: self.of(run, edge) for run in runs if run is not ending and run.is_in(ending)}

    def checkpoint(self, root: OpenStage, edge: EdgeState) -> Checkpoint:
        """The figures of the process and of the recorded stages; runs only if they have used energy since."""
        figures = {}
        for stage, before_j in self.recorded.items():
            total_j = self.recorded[stage] = sum(self._books.totals(stage.account).inclusive_j)
            if stage.run is not stage or total_j != before_j:
                figures[stage.info] = self.of(stage, edge)
        return Checkpoint(time.time_ns(), self.of(root, edge), figures)

"""The figures of open stages at one moment of the meter by the present factors, and the checkpoints of some."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from carbon_otel.footprint import footprint_of
from carbon_otel.meter.meter import EdgeState
from carbon_otel.records import StageInfo
from carbon_otel.sensors.base import Sensor
from carbon_otel.sinks import Checkpoint, Figures, ToFootprint
from carbon_otel.stages.accounts import Books
from carbon_otel.stages.open_stage import OpenStage, record_at

if TYPE_CHECKING:
    from carbon_otel.carbon.grid import EmissionFactor
    from carbon_otel.carbon.life_cycle import LifeCycle

_SEEN: Final = 200


class Statements:
    """Made under the engine's lock. Each of the `recorded` stages has the joules of its last checkpoint.

    `factor` is the present emission factor, and `to_footprint` makes footprints with it.
    """

    def __init__(
        self,
        sensors: Sequence[Sensor],
        books: Books,
        factor: EmissionFactor,
        missing: tuple[str, ...],
        life: LifeCycle,
    ) -> None:
        self._sensors = sensors
        self._books = books
        self._missing = missing
        self._first_factor = factor
        self.recorded: dict[OpenStage, float | None] = {}
        self._use(factor, life)

    def _use(self, factor: EmissionFactor, life: LifeCycle) -> None:
        self.factor = factor
        self.to_footprint: ToFootprint = partial(
            footprint_of, factor=factor, missing=self._missing, life=life
        )

    def reprice(self, factor: EmissionFactor, life: LifeCycle) -> None:
        """Let the figures of the process and of its open stages be by these factors, as if from the start.

        The rates of the embodied carbon stay: they are the meter's.
        """
        # A provider may change the intensity of the same factor at any moment: no ratio is made of that.
        if factor is not self.factor:
            self._books.reprice(factor.emissions_g(1.0) / self._first_factor.emissions_g(1.0))
        self._use(factor, life)

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

    def view(self, root: OpenStage, opened: Iterable[OpenStage], edge: EdgeState) -> Checkpoint:
        """The figures of the process and of the first open stages, as many as people can look at."""
        seen = itertools.islice(opened, _SEEN)
        return Checkpoint(
            time.time_ns(), self.of(root, edge), {stage.info: self.of(stage, edge) for stage in seen}
        )

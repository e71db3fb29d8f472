"""A replica that serves on a virtual clock: a device of known power, and the real way from there to a store."""

from __future__ import annotations

from pathlib import Path

from carbon_otel.carbon.grid import EmissionFactor, intensity
from carbon_otel.footprint import footprint_of
from carbon_otel.meter.meter import Meter
from carbon_otel.mlflow.delivery.worker import DeliveryWorker
from carbon_otel.mlflow.schema import names
from carbon_otel.mlflow.standalone.inference import Serving
from carbon_otel.stages.engine import Engine
from tests.fakes.clock import Clock
from tests.fakes.sensors import package


class Replica:
    """Begins at `start_s` (seconds since the epoch). Its windows go to MLflow's present store, by `folder`."""

    def __init__(self, folder: Path, start_s: int, pue: float = 1.0) -> None:
        self.clock = Clock()
        self._start_ns = start_s * 10**9 - self.clock()
        self._factor = EmissionFactor(intensity("FR"), pue)
        self.device = package(self.clock)
        self.engine = Engine(Meter([self.device], clock_ns=self.clock), self._factor.emissions_g)
        self._writer = DeliveryWorker(folder)
        self.serving = Serving(
            self.engine,
            self._footprint,
            self._tags,
            self._writer,
            checkpoint_s=1800,
            process="simulated",
            clock=lambda: self.clock() / 1e9,
            wall_ns=lambda: self._start_ns + self.clock(),
        )
        self.engine.sinks = [self.serving]

    @property
    def now_s(self) -> float:
        """Seconds since the epoch."""
        return (self._start_ns + self.clock()) / 1e9

    def end(self) -> None:
        self.serving.close(0)
        self._writer.close(300)

    def _footprint(self, stage):
        record = self.engine.so_far(stage) if stage.open else stage.record
        return footprint_of(record, self._factor)

    def _tags(self, footprint, status, stage):
        return names.tags(
            footprint,
            status=status,
            hardware="simulated",
            attribution="reserved",
            trace_id=None,
            trace_url=None,
            lineage=None,
            process="simulated",
        )

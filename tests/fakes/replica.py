"""A replica that serves on a virtual clock: a device of known power, and the real code from there to a store."""

from __future__ import annotations

from pathlib import Path

from carbon_otel.background import Worker
from carbon_otel.carbon.embodied import hardware
from carbon_otel.carbon.grid import EmissionFactor, intensity
from carbon_otel.carbon.life_cycle import LifeCycle
from carbon_otel.footprint import Footprint
from carbon_otel.meter.meter import Meter
from carbon_otel.mlflow.delivery.worker import DeliveryWorker
from carbon_otel.mlflow.schema import names
from carbon_otel.mlflow.standalone.inference import InferenceLedger, Predictions
from carbon_otel.stages.engine import Engine
from tests.fakes.clock import Clock
from tests.fakes.sensors import package


class Replica:
    """Begins at `start_s` (seconds since the epoch). Its windows go through `folder` to MLflow's current store."""

    def __init__(self, folder: Path, start_s: int, pue: float = 1.0) -> None:
        self.clock = Clock()
        self._start_ns = start_s * 10**9 - self.clock()
        self.device = package(self.clock)
        self.life = LifeCycle(hardware([None], 8, 32.0))
        self._engine = Engine(
            Meter([self.device], clock_ns=self.clock, reserved_rates=self.life.reserved),
            EmissionFactor(intensity("FR"), pue),
            checkpoint_s=1800,
            life=self.life,
        )
        self._delivery = Worker("simulated delivery")
        self._worker = DeliveryWorker(folder)
        ledger = InferenceLedger(self._worker, self._delivery, _tags, lambda: self.clock() / 1e9)
        self.predictions = Predictions(
            self._engine,
            ledger,
            process="simulated",
            clock=lambda: self.clock() / 1e9,
            wall_ns=self._wall_ns,
        )
        self._engine.before_tick.append(self.predictions.before_tick)
        self._engine.sinks.add(ledger)

    @property
    def now_s(self) -> float:
        """Seconds since the epoch."""
        return self._wall_ns() / 1e9

    def tick(self) -> None:
        """Tick, and deliver the checkpoint, because a later one would replace it on a virtual clock."""
        self._engine.tick()
        assert self._delivery.submit(lambda: None).wait(60)

    def end(self) -> None:
        self._engine.close_windows()
        assert self._delivery.submit(lambda: None).wait(60)
        self._delivery.close()
        self._worker.close(300)

    def _wall_ns(self) -> int:
        return self._start_ns + self.clock()


def _tags(footprint: Footprint, status: str, trace_id: str | None) -> dict[str, str]:
    return names.provenance_tags(
        footprint,
        status=status,
        hardware="simulated",
        attribution="reserved",
        trace_id=trace_id,
        trace_url=None,
        lineage=None,
        process="simulated",
    )

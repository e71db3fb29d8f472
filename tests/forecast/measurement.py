"""A measurement of one device of known power on a virtual clock, and a sink that keeps what it is told."""

from __future__ import annotations

from carbon_otel import clock as clocks
from carbon_otel import runtime
from carbon_otel.carbon.grid import EmissionFactor
from carbon_otel.meter.meter import Meter
from carbon_otel.records import Foresight
from carbon_otel.sinks import Sink
from carbon_otel.stages.engine import Engine
from tests.fakes.clock import Clock
from tests.fakes.grid import grid_of
from tests.fakes.sensors import FakeSensor

FACTOR = EmissionFactor(grid_of(360.0))  # 0.1 mg a joule


class Told(Sink):
    """What sinks are told of forecasts."""

    def __init__(self) -> None:
        self.foresights: list[tuple[str, Foresight]] = []

    def foreseen(self, stage, foresight):
        self.foresights.append((stage.kind, foresight))


class Measurement:
    """A measurement of one device on a virtual clock."""

    def __init__(self, monkeypatch) -> None:
        self.clock = Clock()
        self.sensor = FakeSensor(self.clock, watts=100)
        self.told = Told()
        self.engine = Engine(Meter([self.sensor], clock_ns=self.clock), FACTOR, [self.told])
        monkeypatch.setattr(runtime, "_active", self)
        monkeypatch.setattr(clocks, "monotonic", lambda: self.clock() / 1e9)

    def synchronize(self) -> None: ...

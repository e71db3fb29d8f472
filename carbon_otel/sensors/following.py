"""Whose turn it is to look how its counter is renewed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from carbon_otel.guard import contain
from carbon_otel.sensors.base import Follows, Sensor


class InTurn:
    """Lets one sensor at a time look, because it takes a while; the next time another one, if it is due."""

    def __init__(self, sensors: Iterable[Sensor]) -> None:
        self._sensors = deque(sensor for sensor in sensors if isinstance(sensor, Follows))

    def follow(self, sleep: Callable[[float], object]) -> None:
        """Let the first one that is due look. A fault of it is logged."""
        for _ in range(len(self._sensors)):
            sensor = self._sensors[0]
            self._sensors.rotate(-1)
            if sensor.due:
                contain("following a counter", None, sensor.follow, sleep)
                return

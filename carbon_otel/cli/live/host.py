"""The devices of this host, read by sensors of this process: no other process needs to be measured."""

from __future__ import annotations

from carbon_otel import clock
from carbon_otel.cli.live.state import DeviceNow
from carbon_otel.config import Settings
from carbon_otel.meter.meter import Meter
from carbon_otel.sensors.discovery import discover


class Host:
    """All devices since this object was made."""

    def __init__(self, settings: Settings) -> None:
        self._discovery = discover(settings.powercap_root, settings.cpu_family)
        self._meter = Meter(self._discovery.sensors)
        self.hardware = self._discovery.hardware
        self.missing = self._discovery.missing
        self.look()

    def look(self) -> list[DeviceNow]:
        """The power of each device now, and its joules so far."""
        now_ns = clock.monotonic_ns()
        self._meter.apply(self._meter.read_for_tick(now_ns), now_ns)
        self._meter.advance(now_ns)
        return [
            DeviceNow(device.name, watts, 1.0, joules)
            for device, joules, watts in self._meter.snapshot().devices
        ]

    def close(self) -> None:
        """Close the sensors."""
        self._discovery.close()

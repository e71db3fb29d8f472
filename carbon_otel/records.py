"""What the core hands to footprints and sinks: immutable records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from carbon_otel.sensors.base import Device

AttributeValue = (
    str | bool | int | float | tuple[str, ...] | tuple[bool, ...] | tuple[int, ...] | tuple[float, ...]
)


@dataclass(frozen=True, slots=True)
class DeviceEnergy:
    """What one stage paid of one device, in joules, and how sure that is.

    `below_j` and `above_j` are how far the inclusive joules may lie from the truth beyond the device's band:
    extrapolated edges, filled gaps, lost wraps. `gap_s` are seconds without a reading.
    """

    device: Device
    exclusive_j: float
    inclusive_j: float
    filled_j: float = 0.0
    below_j: float = 0.0
    above_j: float = 0.0
    gap_s: float = 0.0
    flags: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class StageRecord:
    """A stage that has ended, or the process so far. Wall-clock times only label.

    `shares` are this process's share of the host meanwhile, by rule of attribution.
    """

    kind: str
    name: str
    start_unix_ns: int
    duration_s: float
    devices: tuple[DeviceEnergy, ...]
    exclusive_g: float
    inclusive_g: float
    units: Mapping[str, float] = field(default_factory=dict)
    by_kind: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)

    @property
    def exclusive_j(self) -> float:
        return sum(d.exclusive_j for d in self.devices)

    @property
    def inclusive_j(self) -> float:
        return sum(d.inclusive_j for d in self.devices)

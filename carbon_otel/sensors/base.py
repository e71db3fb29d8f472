"""What a sensor is: a device's identity, and a raw reading on request.

A sensor knows nothing of stages, sinks or carbon. It returns what the hardware says, unchanged; wraps, gaps
and resets are the meter's business. To add a kind of hardware, write one file that yields `Sensor`s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from carbon_otel.provenance import Band, Method

DeviceType = Literal["cpu", "gpu", "memory", "host"]


@dataclass(frozen=True, slots=True)
class Device:
    """One thing that draws power, under the names of the OpenTelemetry `hw.*` conventions.

    `id` is unique within the host (`hw.id`), `source` names the interface or the table behind the figures, and
    `contains` what else its meter measures: nothing of those types of the host may be counted beside it.
    """

    id: str
    type: DeviceType
    name: str
    method: Method
    band: Band
    source: str
    contains: frozenset[DeviceType] = frozenset()


class SensorError(Exception):
    """A reading could not be taken. The meter records a gap, never a zero."""


class Sensor(Protocol):
    """A source of raw readings of one device.

    A `counter` yields energy so far, in units of `joules_per_unit`; it starts over at `wrap` units, or, where
    `wrap` is None, only by a reset. A `power` sensor yields watts.
    """

    @property
    def device(self) -> Device: ...

    @property
    def kind(self) -> Literal["counter", "power"]: ...

    @property
    def joules_per_unit(self) -> float: ...

    @property
    def wrap(self) -> float | None: ...

    @property
    def update_period_s(self) -> float:
        """How often the hardware renews the reading: the quantum of any window."""
        ...

    @property
    def edge_interval_s(self) -> float:
        """A stage's edge reuses a reading younger than this; the dearer the reading, the longer."""
        ...

    @property
    def tick_interval_s(self) -> float:
        """The sampler reads no more often than this."""
        ...

    @property
    def power_bounds_w(self) -> tuple[float, float]:
        """What the device can draw: least and most watts. Beyond the most, a reading is implausible."""
        ...

    def read(self) -> float:
        """The raw reading now. Raises SensorError."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Finding:
    """What discovery decided for one component.

    `reason` says why it got no better tier, `fix` what the user can do; both are empty at the best tier.
    `unmetered` marks a component that draws power and is not in the figures.
    """

    component: str
    method: Method
    found: str
    reason: str = ""
    fix: str = ""
    unmetered: bool = False

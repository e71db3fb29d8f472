"""The interface of a sensor: a device's identity, and a raw reading on request.

A sensor knows nothing of stages, sinks or carbon. It returns the hardware's figure unchanged; the meter deals
with wraps, gaps and resets. To add a kind of hardware, write one file with a `find()` that returns `Sensor`s and
`Finding`s, and call it in `discovery`. Capabilities that few sensors have are protocols of their own, found by
`isinstance`: `Prepares`, `TellsProcesses`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from carbon_otel.provenance import Band, Method

DeviceType = Literal["cpu", "gpu", "memory", "host"]


@dataclass(frozen=True, slots=True)
class Device:
    """One thing that draws power, under the names of the OpenTelemetry `hw.*` conventions.

    `id` is unique within the host (`hw.id`), `source` names the interface or the table behind the figures.
    `contains` are the types of other devices that its meter includes: none of them may be counted beside it.
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
    def device(self) -> Device:
        """The device that is read."""
        ...

    @property
    def kind(self) -> Literal["counter", "power"]:
        """Whether `read` gives units of energy so far, or watts."""
        ...

    @property
    def joules_per_unit(self) -> float:
        """Joules per unit of a counter; 1 for a power sensor."""
        ...

    @property
    def wrap(self) -> float | None:
        """The units at which a counter starts over; None if it does not wrap."""
        ...

    @property
    def update_period_s(self) -> float:
        """The time between two renewals of the reading by the hardware."""
        ...

    @property
    def quantum_s(self) -> float:
        """How old a counter's reading may be, so that its steps hide as much of a window at each edge.

        The update period of a hardware counter; 0 for power sensors and models, whose bands include it.
        """
        ...

    @property
    def edge_interval_s(self) -> float:
        """A stage's edge reuses a reading younger than this: the longer, the more a reading costs."""
        ...

    @property
    def tick_interval_s(self) -> float:
        """The sampler reads no more often than this."""
        ...

    @property
    def power_bounds_w(self) -> tuple[float, float]:
        """The least and the most watts that the device can draw. A reading beyond the most is implausible."""
        ...

    def read(self) -> float:
        """The raw reading now. Raises SensorError."""
        ...

    def close(self) -> None:
        """Release files and handles. The sensor is not read afterwards."""
        ...


@runtime_checkable
class Prepares(Protocol):
    """A sensor that must learn something about its hardware that takes time, such as its update period."""

    def prepare(self) -> None:
        """Learn it. Called once, from the sampler's thread before the first tick; may take a second."""
        ...


@runtime_checkable
class TellsProcesses(Protocol):
    """A sensor whose driver reports which processes use the device."""

    def utilisation(self) -> Mapping[int, float] | None:
        """The fraction of the device, in [0, 1], that each process kept busy since the last call, by process id.

        None where the driver does not report it. For ticks only: it may take milliseconds. Raises SensorError.
        """
        ...


@dataclass(frozen=True, slots=True)
class Finding:
    """The decision of discovery for one component.

    `reason` says why it got no better tier, or why its figures deserve less trust; `fix` what the user can do.
    `unmetered` marks a component that draws power and is not in the figures.
    """

    component: str
    method: Method
    found: str
    reason: str = ""
    fix: str = ""
    unmetered: bool = False

"""The interface of a sensor: a device's identity, and a raw reading on request.

A sensor knows nothing of stages, sinks or carbon. It returns the hardware's figure unchanged; the meter deals with
wraps, gaps and resets. To add a kind of hardware, write one file with a `find()` that returns `Sensor`s and
`Finding`s, and call it in `discovery`. Capabilities of only a few sensors are separate protocols, found by
`isinstance`: `Prepares`, `ReportsProcesses`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from carbon_otel.provenance import Band, Method

DeviceType = Literal["cpu", "gpu", "memory", "host"]


@dataclass(frozen=True, slots=True)
class Device:
    """A component that draws power, with the names of the OpenTelemetry `hw.*` conventions.

    `id` is unique within the host (`hw.id`), `source` names the interface or the table behind the figures.
    `contains` lists the types of other devices that its meter includes; they must not be counted too. `may_rest`
    marks a device that draws nothing while it is unused; a reading of every other device that stays at zero says
    nothing.
    """

    id: str
    type: DeviceType
    name: str
    method: Method
    band: Band
    source: str
    contains: frozenset[DeviceType] = frozenset()
    may_rest: bool = False


class SensorError(Exception):
    """A reading could not be taken. The meter records a gap, never a zero."""


class Sensor(Protocol):
    """A source of raw readings of one device.

    A `counter` returns the energy so far, in units of `joules_per_unit`. It restarts at `wrap` units; if `wrap` is
    None, only a reset restarts it. A `power` sensor returns watts.
    """

    @property
    def device(self) -> Device:
        """The device that is read."""
        ...

    @property
    def kind(self) -> Literal["counter", "power"]:
        """Whether `read` returns units of energy so far, or watts."""
        ...

    @property
    def joules_per_unit(self) -> float:
        """Joules per unit of a counter; 1 for a power sensor."""
        ...

    @property
    def wrap(self) -> float | None:
        """The units at which a counter restarts; None if it does not wrap."""
        ...

    @property
    def update_period_s(self) -> float:
        """The time between two updates of the reading by the hardware."""
        ...

    @property
    def quantum_s(self) -> float:
        """The age that a reading of a counter may have: at each edge, its steps hide that much of a window.

        The update period of a hardware counter; 0 for power sensors and models, whose bands include it.
        """
        ...

    @property
    def edge_interval_s(self) -> float:
        """The edge of a stage reuses a newer reading than this; it is longer for sensors that are slow to read."""
        ...

    @property
    def tick_interval_s(self) -> float:
        """The sampler reads no more often than this."""
        ...

    @property
    def power_bounds_w(self) -> tuple[float, float]:
        """The least and the most watts of the device. A reading above the most is implausible."""
        ...

    def read(self) -> float:
        """The raw reading now. Raises SensorError."""
        ...

    def close(self) -> None:
        """Release files and handles. The sensor is not read afterwards."""
        ...


@runtime_checkable
class Prepares(Protocol):
    """A sensor that must first learn a property of its hardware, such as its update period."""

    def prepare(self, sleep: Callable[[float], object]) -> None:
        """Learn the property. Called once, on the sampler's thread before the first tick; may take a second.

        `sleep` waits for some seconds, but not beyond the end of the measurement.
        """
        ...


@runtime_checkable
class Slow(Protocol):
    """A sensor that takes long to read, and whose counter is old when it is read."""

    @property
    def edge_pace_s(self) -> float:
        """On average, edges read it no more often than this."""
        ...

    def shown(self, began_ns: int, took_ns: int) -> tuple[int, int]:
        """The moment up to which a reading has what the device drew, and how far that may be off, in ns.

        The reading began and took as many ns of the monotonic clock.
        """
        ...


@runtime_checkable
class Follows(Protocol):
    """A sensor that has to look again and again at how its counter is renewed."""

    @property
    def due(self) -> bool:
        """Whether it should look."""
        ...

    def follow(self, sleep: Callable[[float], object]) -> None:
        """Look. Called on the sampler's thread after a tick; may take a second or two.

        `sleep` waits for some seconds, but not beyond the end of the measurement.
        """
        ...

    def lose(self) -> None:
        """Forget what it has seen: the host was suspended. On any thread."""
        ...


class ProcessUse(NamedTuple):
    """Who kept a device busy: the part of the time by process id, in [0, 1], and the number of samples."""

    busy: Mapping[int, float]
    samples: float


@runtime_checkable
class ReportsProcesses(Protocol):
    """A sensor whose driver reports which processes use the device."""

    def utilisation(self) -> ProcessUse | None:
        """The use of the device since the last call.

        None in the first call, and if the driver does not report it. For ticks only: it may take milliseconds.
        Raises SensorError.
        """
        ...


@runtime_checkable
class Divided(Protocol):
    """A sensor of an instance of a device that is divided, such as a MIG instance of a GPU."""

    @property
    def part(self) -> float:
        """The part of the whole device, in (0, 1]."""
        ...


@dataclass(frozen=True, slots=True)
class Finding:
    """The decision of discovery for one component.

    `reason` explains why it has no better tier, or why its figures are less reliable; `fix` is the remedy for the
    user. `unmetered` marks a component that draws power and is not in the figures.
    """

    component: str
    method: Method
    found: str
    reason: str = ""
    fix: str = ""
    unmetered: bool = False

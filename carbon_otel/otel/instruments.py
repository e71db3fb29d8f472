"""The metric instruments of a meter provider, made once for all sessions of the process."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

from carbon_otel._version import __version__
from carbon_otel.carbon.grid import EmissionFactor
from carbon_otel.fork import renew_after_fork
from carbon_otel.guard import contain
from carbon_otel.otel import instance
from carbon_otel.otel.counts import Counts
from carbon_otel.records import Snapshot
from carbon_otel.semconv import names as semconv
from carbon_otel.sensors.base import Device

_EMPTY = Snapshot(())
# For what stages last: from a millisecond (an inference) to two days (a training). The SDK's own boundaries, 0 to
# 10,000, put every short stage into one bucket, and each bucket is a series of its own in Prometheus.
DURATIONS_S: Final = (0.001, 0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 28_800.0, 172_800.0)
# Unit and description of each metric.
DESCRIBED: Final[Mapping[str, tuple[str, str]]] = {
    semconv.STAGE_ENERGY: (semconv.JOULE, "Exclusive energy of a stage"),
    semconv.STAGE_EMISSIONS: (semconv.GRAM, "Emissions of the exclusive energy of a stage, in CO2e"),
    semconv.STAGE_DURATION: (semconv.SECOND, "Wall time of a stage"),
    semconv.STAGE_UNITS: (semconv.UNIT_COUNT, "Functional units of stages: samples, tokens, requests"),
    semconv.REMOTE_ENERGY: (semconv.JOULE, "Estimated energy that calls of remote models took elsewhere"),
    semconv.REMOTE_EMISSIONS: (semconv.GRAM, "Estimated emissions of calls of remote models, in CO2e"),
    semconv.REMOTE_REQUESTS: (semconv.REQUEST_COUNT, "Calls of remote models, with an estimate and without"),
    semconv.HW_ENERGY: (semconv.JOULE, "Energy used by a device"),
    semconv.HW_POWER: (semconv.WATT, "Power drawn by a device"),
    semconv.HW_HOST_ENERGY: (semconv.JOULE, "Energy used by the host"),
    semconv.HW_HOST_POWER: (semconv.WATT, "Power drawn by the host"),
    semconv.EMBODIED: (
        semconv.GRAM,
        "Emissions of making the hardware, for the time that this process has reserved of it, in CO2e",
    ),
    semconv.CPU_STEAL: (
        semconv.RATIO,
        "Share of the guest's CPU time that the hypervisor gave to other guests",
    ),
    semconv.CARBON_INTENSITY: (semconv.GRAM_PER_KWH, "Carbon intensity of the grid, in CO2e"),
}


@dataclass
class Source:
    """The data that the observable instruments read. Each session sets it; in a forked child it is empty."""

    snapshot: Snapshot = _EMPTY
    embodied_g: float = 0.0
    factor: EmissionFactor | None = None
    host: Mapping[str, str] = field(default_factory=dict)
    steal: Callable[[], float | None] = lambda: None
    before_export: Callable[[], object] = lambda: None
    after_export: Callable[[bool], object] = lambda taken: None
    over: bool = False

    def ended(self) -> Source:
        """The sums so far, which grow no more, and nothing of the present."""
        return Source(self.snapshot, self.embodied_g, None, self.host, over=True)


class Instruments:
    """Counters that stages add to, and observable instruments that read the snapshot of the last tick.

    The energy of a device starts at 0 and continues from the last session of this process, so it never goes down.
    """

    def __init__(self, provider: MeterProvider) -> None:
        meter = provider.get_meter(semconv.SCOPE, __version__, semconv.SCHEMA_URL)
        self.source = Source()
        self._before: dict[str, float] = {}
        self._embodied_before_g = 0.0
        self.provider = provider
        self.counts: Counts | None = None  # what a journal keeps
        self._forked = False
        self._apart: Mapping[str, str] | None = None
        self.stage_energy = meter.create_counter(semconv.STAGE_ENERGY, *DESCRIBED[semconv.STAGE_ENERGY])
        self.emissions = meter.create_counter(semconv.STAGE_EMISSIONS, *DESCRIBED[semconv.STAGE_EMISSIONS])
        self.duration = meter.create_histogram(
            semconv.STAGE_DURATION,
            *DESCRIBED[semconv.STAGE_DURATION],
            explicit_bucket_boundaries_advisory=DURATIONS_S,
        )
        self.units = meter.create_counter(semconv.STAGE_UNITS, *DESCRIBED[semconv.STAGE_UNITS])
        self.remote_energy, self.remote_emissions, self.remote_requests = (
            meter.create_counter(name, *DESCRIBED[name])
            for name in (semconv.REMOTE_ENERGY, semconv.REMOTE_EMISSIONS, semconv.REMOTE_REQUESTS)
        )
        for create, name, observe in (
            # The first one: the SDK calls it before it collects anything.
            (meter.create_observable_counter, semconv.HW_ENERGY, self._energy),
            (meter.create_observable_gauge, semconv.HW_POWER, lambda _: self._power(host=False)),
            (meter.create_observable_counter, semconv.HW_HOST_ENERGY, lambda _: self.energy(host=True)),
            (meter.create_observable_gauge, semconv.HW_HOST_POWER, lambda _: self._power(host=True)),
            (meter.create_observable_counter, semconv.EMBODIED, lambda _: self.embodied()),
            (meter.create_observable_gauge, semconv.CPU_STEAL, self._steal),
            (meter.create_observable_gauge, semconv.CARBON_INTENSITY, self._intensity),
        ):
            create(name, [observe], *DESCRIBED[name])

    def attach(self, factor: EmissionFactor, boot: str, steal: Callable[[], float | None]) -> None:
        """Begin a session. `boot` is the id of the host's current boot."""
        self._close_source()
        # A part of the id tells hosts apart, and every point has it.
        host = {semconv.HOST_NAME: socket.gethostname(), semconv.HOST_BOOT: boot.replace("-", "")[:12]}
        self.source = Source(_EMPTY, 0.0, factor, host, steal)

    def follow_grid(self, factor: EmissionFactor) -> None:
        """Report the intensity of another factor from now on."""
        self.source.factor = factor

    def follow(self, former: Instruments) -> None:
        """Go on with the session of other instruments, whose sums stay: a reader may not have seen them yet."""
        self._close_source()
        self.source = former.source
        former.source = former.source.ended()
        for device, joules, _ in self.source.snapshot.devices:  # the others have reported these
            self._before[device.id] = self._before.get(device.id, 0.0) - joules
        self._embodied_before_g -= self.source.embodied_g

    def _close_source(self) -> None:
        for device, joules, _ in self.source.snapshot.devices:
            self._before[device.id] = self._before.get(device.id, 0.0) + joules
        self._embodied_before_g += self.source.embodied_g
        self.source = Source()

    @property
    def apart(self) -> Mapping[str, str]:
        """The label that keeps this process apart from others, if its provider does not; see `instance`."""
        if self._apart is None:
            self._apart = instance.label_of(self.provider, forked=self._forked)
        return self._apart or {}

    def take_over(self, snapshot: Snapshot, unreported_s: float) -> None:
        """Report the devices from now on. Another process reported them until `unreported_s` seconds ago."""
        for device, joules, watts in snapshot.devices:
            reported_j = max(0.0, joules - watts * unreported_s)
            self._before[device.id] = self._before.get(device.id, 0.0) - reported_j

    def forget(self) -> None:
        """In a forked child: the parent reports the devices, and the child is an instance of its own."""
        self.source, self.counts = Source(), None
        self._embodied_before_g = 0.0
        self._forked, self._apart = True, None

    def energy(self, *, host: bool) -> Iterable[Observation]:
        """The joules of the host, or of its other devices; nothing if another process reports them."""
        for device, joules, _ in self.source.snapshot.devices:
            if (device.type == "host") is host:
                yield Observation(self._before.get(device.id, 0.0) + joules, self._identity(device))

    def embodied(self) -> Iterable[Observation]:
        """The embodied grams of this process; nothing if they are unknown."""
        grams = self._embodied_before_g + self.source.embodied_g
        if grams > 0:
            yield Observation(grams, self.apart)

    def _energy(self, options: CallbackOptions) -> Iterable[Observation]:
        contain("saving before an export", None, self.source.before_export)
        return self.energy(host=False)

    def _power(self, *, host: bool) -> Iterable[Observation]:
        if self.source.over:
            return
        for device, _, watts in self.source.snapshot.devices:
            if (device.type == "host") is host:
                yield Observation(watts, self._identity(device))

    def _steal(self, options: CallbackOptions) -> Iterable[Observation]:
        share = self.source.steal()
        if share is not None:
            yield Observation(share, self.apart)

    def _intensity(self, options: CallbackOptions) -> Iterable[Observation]:
        if self.source.factor is not None:
            grid = self.source.factor.intensity
            yield Observation(grid.g_per_kwh, {semconv.ZONE: grid.zone, **self.apart})

    def _identity(self, device: Device) -> dict[str, str]:
        identity = {semconv.HW_ID: device.id, semconv.HW_NAME: device.name, **self.source.host, **self.apart}
        if device.type != "host":
            identity[semconv.HW_TYPE] = device.type
        return identity


# Keyed by identity, since a provider need not be hashable (Logfire's is not). Keeping the provider keeps its
# identity unique.
_made: dict[int, tuple[MeterProvider, Instruments]] = {}


def instruments_of(provider: MeterProvider) -> Instruments:
    """The instruments of a provider; they are made once."""
    if id(provider) not in _made:
        _made[id(provider)] = provider, Instruments(provider)
    return _made[id(provider)][1]


def _forget_all() -> None:
    for _, made in list(_made.values()):
        made.forget()


renew_after_fork(_forget_all)

"""All devices on one clock: when each is read, and what of each this process answers for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

from carbon_otel.host.attribution import Shares
from carbon_otel.meter.timeline import Timeline
from carbon_otel.records import Snapshot
from carbon_otel.sensors.base import Sensor, SensorError
from carbon_otel.units import NS_PER_S, S_PER_NS

_BOOT_CLOCK: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)
_SUSPENDED_NS: Final = NS_PER_S // 2

Reading = tuple["DeviceTrack", int, float | None]


class Readings(NamedTuple):
    """What was read at one moment, before anybody's lock: sensors, and shares where it was time for new ones."""

    readings: list[Reading]
    shares: Shares | None


class QualityCounters(NamedTuple):
    """What was out of order with a device so far: joules filled in, joules that lost wraps may add, seconds
    without a reading, and when each flag was last raised.
    """

    filled_j: float
    ambiguous_j: float
    gap_s: float
    flags: dict[str, int]


class StaleReading(NamedTuple):
    """A device of which an edge knows no fresh reading: the seconds since the last one, and by how many joules
    the timeline is ahead of what was read.
    """

    track: int
    seconds: float
    ahead_j: float


class EdgeState(NamedTuple):
    """What the meter knew at one moment. `troubles` is None as long as no device had any.

    `shares` are those in force, `drawn` each device's joules so far and its present watts, `reserved_s` and
    `process_s` the host's shares by either rule, integrated over time.
    """

    now_ns: int
    late: tuple[StaleReading, ...]
    troubles: tuple[QualityCounters, ...] | None
    shares: tuple[float, ...]
    drawn: tuple[tuple[float, float], ...] = ()
    reserved_s: float = 0.0
    process_s: float = 0.0


class ShareRule(Protocol):
    """The part of each device that is this process's: `present` as last measured.

    `measure` says what it was since the last measurement, or None where it is too early to tell.
    """

    @property
    def present(self) -> Shares: ...

    def measure(self, now_ns: int, *, tick: bool) -> Shares | None: ...


class SoleProcess:
    """The shares of a process that is alone on what it may use."""

    def __init__(self, devices: int) -> None:
        self.present = Shares((1.0,) * devices, 1.0, 1.0)

    def measure(self, now_ns: int, *, tick: bool) -> Shares | None:
        return None


class DeviceTrack:
    """A device's timeline, when to read it, and our share of it."""

    __slots__ = (
        "_base_device_j",
        "_base_own_j",
        "due_edge_ns",
        "due_tick_ns",
        "edge_interval_ns",
        "error",
        "own_j",
        "read",
        "share",
        "tick_interval_ns",
        "timeline",
    )

    def __init__(self, sensor: Sensor, share: float) -> None:
        self.timeline = Timeline(sensor)
        self.share = share
        self.read = sensor.read
        self.tick_interval_ns = int(sensor.tick_interval_s * NS_PER_S)
        self.due_edge_ns = self.due_tick_ns = 0
        self.renew_period()
        self.error: str | None = None
        self.own_j = 0.0
        self._base_device_j = 0.0
        self._base_own_j = 0.0

    def renew_period(self) -> None:
        """Take over what the sensor says of its update period."""
        self.edge_interval_ns = int(self.timeline.sensor.edge_interval_s * NS_PER_S)
        self.timeline.renew_period()

    def advance(self, now_ns: int) -> float:
        """Our joules that became known since the last call; never negative."""
        own = self._base_own_j + self.share * (self.timeline.at(now_ns) - self._base_device_j)
        if own <= self.own_j:
            return 0.0
        gained = own - self.own_j
        self.own_j = own
        return gained

    def settle_share(self, share: float) -> None:
        """The share since the last call was this; use it from then on."""
        device_j = self.timeline.published_j
        self._base_own_j += share * (device_j - self._base_device_j)
        self._base_device_j = device_j
        self.share = share


class Meter:
    """Reads the sensors and turns readings into joules to be paid.

    `read_for_edge` and `read_for_tick` need no lock and may block on hardware; `apply` and `advance` must be
    called under the caller's lock.
    """

    def __init__(
        self,
        sensors: Sequence[Sensor],
        *,
        rule: ShareRule | None = None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        on_fault: Callable[[Sensor, str], None] = lambda sensor, message: None,
    ) -> None:
        self._rule: ShareRule = rule or SoleProcess(len(sensors))
        self._shares = self._rule.present
        self.tracks = [
            DeviceTrack(sensor, share) for sensor, share in zip(sensors, self._shares.devices, strict=True)
        ]
        self.clock_ns = clock_ns
        self._shares_ns = clock_ns()
        self._reserved_s = self._process_s = 0.0
        self._on_fault = on_fault
        self._asleep_ns = _boot_minus_monotonic()

    def read_for_edge(self, now_ns: int) -> Readings:
        readings = [self._read(track, now_ns) for track in self.tracks if now_ns >= track.due_edge_ns]
        return Readings(readings, self._rule.measure(now_ns, tick=False))

    def read_for_tick(self, now_ns: int) -> Readings:
        readings = [self._read(track, now_ns) for track in self.tracks if now_ns >= track.due_tick_ns]
        return Readings(readings, self._rule.measure(now_ns, tick=True))

    def _read(self, track: DeviceTrack, now_ns: int) -> Reading:
        # Set first: what another thread asks for meanwhile need not be read twice.
        track.due_edge_ns = now_ns + track.edge_interval_ns
        track.due_tick_ns = now_ns + track.tick_interval_ns
        raw: float | None
        try:
            raw = track.read()
            if track.error is not None:
                track.error = None
        except SensorError as error:
            raw = None
            if track.error is None:
                self._on_fault(track.timeline.sensor, str(error))
            track.error = str(error)
        return track, self.clock_ns(), raw

    def apply(self, taken: Readings, now_ns: int) -> None:
        for track, read_ns, raw in taken.readings:
            if raw is None:
                track.timeline.miss(read_ns)
            else:
                track.timeline.observe(read_ns, raw)
        if taken.shares is not None:
            self._settle_shares(taken.shares, now_ns)

    def _settle_shares(self, shares: Shares, now_ns: int) -> None:
        """These were the shares of the interval that ends now; they hold on until there are new ones."""
        seconds = max(0, now_ns - self._shares_ns) * S_PER_NS
        self._reserved_s += shares.reserved * seconds
        self._process_s += shares.process * seconds
        self._shares, self._shares_ns = shares, max(now_ns, self._shares_ns)
        for track, share in zip(self.tracks, shares.devices, strict=True):
            track.timeline.at(now_ns)
            track.settle_share(share)

    def note_suspend(self) -> bool:
        """Whether the host slept since the last call; then every device's interval is flagged."""
        asleep_ns = _boot_minus_monotonic()
        slept = asleep_ns - self._asleep_ns > _SUSPENDED_NS
        self._asleep_ns = asleep_ns
        if slept:
            for track in self.tracks:
                track.timeline.flag("suspend", self.clock_ns())
        return slept

    def advance(self, now_ns: int) -> list[float]:
        """Joules of each device to be paid for the time since the last call."""
        return [track.advance(now_ns) for track in self.tracks]

    def edge(self, now_ns: int) -> EdgeState:
        late: tuple[StaleReading, ...] = ()
        troubles = None
        for i, track in enumerate(self.tracks):
            timeline = track.timeline
            if now_ns > timeline.last_ns or timeline.published_j > timeline.true_j:
                seconds = max(0, now_ns - timeline.last_ns) * S_PER_NS
                late = (*late, StaleReading(i, seconds, timeline.published_j - timeline.true_j))
            if timeline.flags and troubles is None:
                timelines = [each.timeline for each in self.tracks]
                troubles = tuple(
                    [QualityCounters(t.filled_j, t.ambiguous_j, t.gap_s, t.flags.copy()) for t in timelines]
                )
        shares = self._shares
        since_s = (now_ns - self._shares_ns) * S_PER_NS
        return EdgeState(
            now_ns,
            late,
            troubles,
            shares.devices,
            tuple([(t.timeline.published_j, t.timeline.power_w) for t in self.tracks]),
            self._reserved_s + shares.reserved * since_s,
            self._process_s + shares.process * since_s,
        )

    def snapshot(self) -> Snapshot:
        return Snapshot(
            tuple(
                (t.sensor.device, t.published_j, t.power_w) for t in (track.timeline for track in self.tracks)
            )
        )

    def close(self) -> None:
        for track in self.tracks:
            track.timeline.sensor.close()


def _boot_minus_monotonic() -> int:
    if _BOOT_CLOCK is None:
        return 0
    return time.clock_gettime_ns(_BOOT_CLOCK) - time.monotonic_ns()

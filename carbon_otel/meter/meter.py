"""All devices on one clock: when to read each, and this process's share of its energy."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

from carbon_otel import clock
from carbon_otel.guard import pass_on
from carbon_otel.meter.reserved_time import ReservedTime
from carbon_otel.meter.sampled_share import NOT_SAMPLED, Sampled, SampledShare
from carbon_otel.meter.timeline import DeviceState, Timeline
from carbon_otel.records import Shares, Snapshot
from carbon_otel.sensors.base import Follows, Sensor, SensorError, Slow
from carbon_otel.units import NS_PER_S, S_PER_NS

_BOOT_CLOCK: Final[int | None] = (
    getattr(time, "CLOCK_BOOTTIME", None) if hasattr(time, "clock_gettime_ns") else None
)
_SUSPENDED_NS: Final = NS_PER_S // 2

# So many readings at edges may follow each other before they are paced.
_BURST: Final = 10

# The track of a device, the begin and end of a reading, and its raw value (None if it failed). A plain tuple, as
# `DeviceState` is.
Reading = tuple["DeviceTrack", int, int, float | None]


class Readings(NamedTuple):
    """The readings taken for one edge or tick, and the shares of the interval that ends there, if measured."""

    sensors: list[Reading]
    shares: Shares | None


class QualityCounters(NamedTuple):
    """The faults in the readings of a device so far.

    Joules filled in, joules that lost wraps, resets and jumps may add, seconds without a reading, the last time of
    each flag, the seconds in which no reading has given a power, so that the device may have drawn any, and the
    samples that tell the share.
    """

    filled_j: float
    ambiguous_j: float
    gap_s: float
    flags: dict[str, int]
    blind_s: float = 0.0
    sampled: Sampled = NOT_SAMPLED


class EdgeState(NamedTuple):
    """The state of the meter at one moment.

    `quality` is None until a device has a fault. `shares` are the current ones; `reserved_s` and `process_s` are
    the host's shares by either rule, integrated over time. `uncoordinated` are the devices whose energy other
    processes may have counted too, and the last moment at which they may have.
    """

    now_ns: int
    devices: tuple[DeviceState, ...]
    quality: tuple[QualityCounters, ...] | None
    shares: tuple[float, ...]
    reserved_s: float = 0.0
    process_s: float = 0.0
    uncoordinated: tuple[frozenset[str], int] = (frozenset(), -1)


NO_EDGE: Final = EdgeState(0, (), None, ())


class ShareRule(Protocol):
    """A rule for this process's share of each device."""

    @property
    def present(self) -> Shares:
        """The shares as last measured."""
        ...

    def measure(self, now_ns: int, *, tick: bool) -> Shares | None:
        """The shares of the time since the last measurement; None if it is too early for a new one."""
        ...


class SoleProcess:
    """The rule of a process that does not share its devices."""

    def __init__(self, devices: int) -> None:
        self.present = Shares((1.0,) * devices, 1.0, 1.0)

    def measure(self, now_ns: int, *, tick: bool) -> Shares | None:
        """None: the shares never change."""
        return None


class DeviceTrack:
    """The timeline of a device, the times to read it, and this process's share of it.

    `own_j` is the energy charged to this process. `unshared_j` and `unshared_s` are the device's joules and the
    seconds in which the share could not be measured, and was taken to be the last one.
    """

    __slots__ = (
        "_base",
        "_paced_ns",
        "due_edge_ns",
        "due_tick_ns",
        "edge_interval_ns",
        "edge_pace_ns",
        "error",
        "fresh_until_ns",
        "own_j",
        "read",
        "sampled",
        "share",
        "silent",
        "tick_interval_ns",
        "timeline",
        "unshared_j",
        "unshared_s",
    )

    def __init__(self, sensor: Sensor, share: float) -> None:
        self.timeline = Timeline(sensor)
        self.share = share
        self.read = sensor.read
        self.tick_interval_ns = int(sensor.tick_interval_s * NS_PER_S)
        self.due_edge_ns = self.due_tick_ns = self.fresh_until_ns = self._paced_ns = 0
        self.renew_period()
        self.error: str | None = None
        self.silent = False
        self.own_j = 0.0
        # This process's joules and the device's at the last change of the share, and the share since: one tuple,
        # since an exception may arrive between two assignments.
        self._base = 0.0, 0.0, share
        self.unshared_j = self.unshared_s = 0.0
        self.sampled = SampledShare()

    def renew_period(self) -> None:
        """Take over the sensor's update period."""
        sensor = self.timeline.sensor
        self.edge_interval_ns = int(sensor.edge_interval_s * NS_PER_S)
        self.edge_pace_ns = int(sensor.edge_pace_s * NS_PER_S) if isinstance(sensor, Slow) else 0
        self.timeline.renew_period()

    def note_read(self, began_ns: int) -> None:
        """Until a while after this reading, edges do without a new one."""
        self.fresh_until_ns = self.due_edge_ns = began_ns + self.edge_interval_ns
        if self.edge_pace_ns:
            # When the next reading would come at an even pace. Ticks count, but leave no debt for ever.
            paced_ns = max(self._paced_ns, began_ns) + self.edge_pace_ns
            self._paced_ns = min(paced_ns, began_ns + (_BURST + 1) * self.edge_pace_ns)
            self.due_edge_ns = max(self.due_edge_ns, self._paced_ns - _BURST * self.edge_pace_ns)

    def advance(self, now_ns: int) -> float:
        """This process's joules up to `now_ns`; never less than in an earlier call."""
        own_j, device_j, share = self._base
        own = own_j + share * (self.timeline.at(now_ns) - device_j)
        if own > self.own_j:
            self.own_j = own
        return self.own_j

    def note_unknown_share(self, now_ns: int, seconds: float) -> None:
        """Count the energy since the last settlement as shared by an old share. Call before `settle_share`."""
        self.unshared_j += self.timeline.published_j - self._base[1]
        self.unshared_s += seconds
        self.timeline.flag("share", now_ns)

    @property
    def quality(self) -> QualityCounters:
        """The faults so far, in readings and in shares."""
        t = self.timeline
        return QualityCounters(
            t.filled_j + self.unshared_j,
            t.ambiguous_j,
            t.gap_s + self.unshared_s,
            t.flags.copy(),
            t.blind_s,
            (*self.sampled.state, self._base[1]),
        )

    def note_samples(self, now_ns: int, samples: float) -> None:
        """The share that is settled next is the mean of so many samples. Call before `settle_share`."""
        self.sampled.renew(self._base[1], samples)
        if samples:
            self.timeline.flag("sampled", now_ns)

    def settle_share(self, share: float) -> None:
        """Charge the energy since the last call with this share, and keep the share until the next call."""
        own_j, before_j, _ = self._base
        device_j = self.timeline.published_j
        self._base = own_j + share * (device_j - before_j), device_j, share
        self.share = share


class Meter:
    """Reads the sensors and converts readings to this process's joules.

    `read_for_edge` and `read_for_tick` need no lock and may block on hardware; `apply` and `advance` must be
    called under the caller's lock.
    """

    def __init__(
        self,
        sensors: Sequence[Sensor],
        *,
        rule: ShareRule | None = None,
        clock_ns: Callable[[], int] = clock.monotonic_ns,
        on_fault: Callable[[Sensor, str], None] = lambda sensor, message: None,
        reserved_rates: tuple[float, Sequence[float]] = (0.0, ()),
    ) -> None:
        """`reserved_rates` are what a second of the whole host is worth, and of each device."""
        self._rule: ShareRule = rule or SoleProcess(len(sensors))
        self._shares = self._rule.present
        self.tracks = [
            DeviceTrack(sensor, share) for sensor, share in zip(sensors, self._shares.devices, strict=True)
        ]
        self._timelines = [track.timeline for track in self.tracks]
        self.clock_ns = clock_ns
        self._shares_ns = clock_ns()
        self._reserved_s = self._process_s = 0.0
        self._reserved_time = ReservedTime(*reserved_rates, self._shares, self._shares_ns)
        # What this process's reserved time is worth up to a moment.
        self.accrue = self._reserved_time.up_to
        self._uncoordinated: tuple[frozenset[str], int] = (self._shares.uncoordinated, self._shares_ns)
        self._on_fault = on_fault
        self._asleep_ns = _boot_minus_monotonic()

    def read_for_edge(self, now_ns: int) -> Readings:
        """Read the devices whose last reading is too old for an edge at `now_ns`."""
        due = [track for track in self.tracks if now_ns >= track.due_edge_ns]
        return Readings(self._read(due, now_ns) if due else [], self._rule.measure(now_ns, tick=False))

    def read_for_tick(self, now_ns: int) -> Readings:
        """Read the devices that are due at a tick at `now_ns`."""
        # Also a device that an edge has read lately: it may draw another power since then.
        due = [
            track for track in self.tracks if now_ns >= track.due_tick_ns and now_ns >= track.fresh_until_ns
        ]
        for track in due:
            track.due_tick_ns = now_ns + track.tick_interval_ns
        for track in self.tracks:
            self._report_silence(track)
        return Readings(self._read(due, now_ns), self._rule.measure(now_ns, tick=True))

    def _read(self, due: list[DeviceTrack], now_ns: int) -> list[Reading]:
        readings: list[Reading] = []
        began_ns, clock_ns = now_ns, self.clock_ns
        for track in due:
            raw: float | None
            try:
                raw = track.read()
                track.error = None
            except SensorError as error:
                pass_on(error)
                raw = None
                if track.error is None:
                    self._on_fault(track.timeline.sensor, str(error))
                track.error = str(error)
            ended_ns = clock_ns()
            readings.append((track, began_ns, ended_ns, raw))
            began_ns = ended_ns
        return readings

    def _report_silence(self, track: DeviceTrack) -> None:
        timeline = track.timeline
        if track.error is None and not track.silent and timeline.stands_still:
            self._on_fault(timeline.sensor, "it answers, but its counter does not change")
        track.silent = timeline.stands_still

    def apply(self, readings: Readings, now_ns: int) -> None:
        """Enter readings into the timelines, and the shares of the interval that ends at `now_ns`."""
        for track, began_ns, ended_ns, raw in readings.sensors:
            # Not before: an edge must not rely on a reading that another thread has not entered yet.
            track.note_read(began_ns)
            timeline = track.timeline
            if raw is None:
                timeline.miss(began_ns)
            else:
                timeline.observe(began_ns, raw, ended_ns - began_ns)
        # Another thread may already have entered the shares of a later interval.
        if readings.shares is not None and now_ns >= self._shares_ns:
            self._settle_shares(readings.shares, now_ns)

    def _settle_shares(self, shares: Shares, now_ns: int) -> None:
        """Apply the shares of the interval that ends now; they stay until the next ones."""
        seconds = (now_ns - self._shares_ns) * S_PER_NS
        self._reserved_s += shares.reserved * seconds
        self._process_s += shares.process * seconds
        if self._shares.uncoordinated:
            self._uncoordinated = (self._shares.uncoordinated, now_ns)
        self._reserved_time.settle(shares, now_ns)
        if shares.samples is not self._shares.samples:
            counts = shares.samples or (0.0,) * len(self.tracks)
            for track, samples in zip(self.tracks, counts, strict=True):
                track.note_samples(now_ns, samples)
        self._shares, self._shares_ns = shares, now_ns
        for track, share in zip(self.tracks, shares.devices, strict=True):
            track.timeline.at(now_ns)
            if not shares.known and track.timeline.sensor.device.type != "gpu":
                track.note_unknown_share(now_ns, seconds)
            track.settle_share(share)

    def note_suspend(self) -> bool:
        """Whether the host was suspended since the last call; if so, flag the interval of every device."""
        asleep_ns = _boot_minus_monotonic()
        slept = asleep_ns - self._asleep_ns > _SUSPENDED_NS
        self._asleep_ns = asleep_ns
        if slept:
            for track in self.tracks:
                track.timeline.flag("suspend", self.clock_ns())
                if isinstance(track.timeline.sensor, Follows):
                    track.timeline.sensor.lose()
        return slept

    def advance(self, now_ns: int) -> list[float]:
        """This process's joules of each device up to `now_ns`."""
        return [track.advance(now_ns) for track in self.tracks]

    def edge(self, now_ns: int) -> EdgeState:
        """The state of the meter at the edge of a stage, after `apply` and `advance` to the same moment."""
        timelines = self._timelines
        devices = tuple([timeline.edge() for timeline in timelines])
        quality = None
        for timeline in timelines:
            if timeline.flags:
                quality = tuple([track.quality for track in self.tracks])
                break
        shares = self._shares
        since_s = (now_ns - self._shares_ns) * S_PER_NS
        return EdgeState(
            now_ns,
            devices,
            quality,
            shares.devices,
            self._reserved_s + shares.reserved * since_s,
            self._process_s + shares.process * since_s,
            (shares.uncoordinated, now_ns) if shares.uncoordinated else self._uncoordinated,
        )

    def snapshot(self) -> Snapshot:
        """All devices with their whole energy, before it is shared."""
        return Snapshot(
            tuple(
                (t.sensor.device, t.published_j, t.power_w) for t in (track.timeline for track in self.tracks)
            )
        )


def _boot_minus_monotonic() -> int:
    if _BOOT_CLOCK is None:
        return 0
    return time.clock_gettime_ns(_BOOT_CLOCK) - clock.monotonic_ns()

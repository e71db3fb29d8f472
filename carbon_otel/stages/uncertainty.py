"""The uncertainty of a stage's figure of one device, from the meter's states at the stage's two edges."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from carbon_otel.meter.meter import EdgeState, QualityCounters
from carbon_otel.meter.sampled_share import doubt
from carbon_otel.meter.timeline import DeviceState
from carbon_otel.records import TIME_SHARE, DeviceEnergy
from carbon_otel.sensors.base import Sensor
from carbon_otel.units import S_PER_NS

_NO_FAULT: Final = QualityCounters(0.0, 0.0, 0.0, {})
_NO_FLAGS: Final[frozenset[str]] = frozenset()
# A stage with fewer periods of the counter than this is flagged.
_SHORT_PERIODS: Final = 5
_SAMPLED: Final = frozenset({"sampled"})
# Standard errors of a band with k=2.
_COVERED: Final = 2.0
_SHORT: Final = frozenset({"short"})
_UNCOORDINATED: Final = frozenset({"uncoordinated"})
_TIME_SHARE: Final = frozenset({TIME_SHARE})


def device_energies(
    sensors: Sequence[Sensor],
    begin: EdgeState,
    end: EdgeState,
    exclusive_j: Sequence[float],
    inclusive_j: Sequence[float],
) -> tuple[DeviceEnergy, ...]:
    """The energy of each device between two edges, with its uncertainty.

    These joules are uncertain beyond the device's own band:

    * at an edge without a new reading: since the last reading the device drew between its least and its most
      power, and the timeline may already have led the device; a slow reading may be of any moment during it;
    * the quantum of the counter: with edges anywhere within its update period, up to the mean power times that
      period; more in proportion if the device drew more at an edge, or may have, since it did lately;
    * the joules that fill gaps, up and down; upwards, lost whole wraps, jumps, and what the device can have drawn
      at its most power up to a reset;
    * while no reading has given a power: up to the device's most power;
    * where samples tell this process's share: Wilson's interval of a binomial proportion (k=2).
    """
    duration_s = (end.now_ns - begin.now_ns) * S_PER_NS
    uncoordinated, last_ns = end.uncoordinated
    if last_ns < begin.now_ns:
        uncoordinated = _NO_FLAGS
    parts = []
    for i, sensor in enumerate(sensors):
        before, after, joules, share = begin.devices[i], end.devices[i], inclusive_j[i], end.shares[i]
        least_w, most_w = sensor.power_bounds_w
        least_ahead_j, most_ahead_j = _ahead_j(before, begin.now_ns, least_w, most_w)
        least_behind_j, most_behind_j = _ahead_j(after, end.now_ns, least_w, most_w)
        below_j = (most_behind_j - least_ahead_j) * share if most_behind_j > least_ahead_j else 0.0
        above_j = (most_ahead_j - least_behind_j) * share if most_ahead_j > least_behind_j else 0.0
        flags, period_s = _NO_FLAGS, sensor.quantum_s
        if period_s > 0 and duration_s > 0:
            device_j = after[0] - before[0]
            # One period at the power of an edge is hidden in a step of the counter: at the most that was read
            # lately, or at the stage's own power, of which a period may be missing.
            seen_s = duration_s - period_s
            own_w = device_j / seen_s if seen_s * most_w > device_j else most_w
            edge_w = max(before[2], after[2], own_w)
            quantum_j = edge_w * period_s * (min(share, joules / device_j) if device_j > 0 else share)
            below_j += quantum_j
            above_j += quantum_j
            if duration_s < _SHORT_PERIODS * period_s:
                flags = _SHORT
        if sensor.device.id in uncoordinated:
            flags |= _UNCOORDINATED
        part = DeviceEnergy(
            sensor.device, exclusive_j[i], joules, 0.0, min(joules, below_j), above_j, 0.0, flags
        )
        if end.quality is not None:
            part = _with_faults(part, i, begin, end, below_j, most_w)
        parts.append(part)
    return tuple(parts)


def by_time_share(
    parts: Sequence[DeviceEnergy], least_j: Sequence[float], most_j: Sequence[float]
) -> tuple[DeviceEnergy, ...]:
    """The energy of calls that took a part of the time of a stage, with bounds on what they drew.

    The device may have drawn more or less in the calls than between them: nothing is known of that but the bounds.
    """
    return tuple(
        part._replace(
            below_j=min(part.inclusive_j, part.below_j + max(0.0, part.inclusive_j - least)),
            above_j=part.above_j + max(0.0, most - part.inclusive_j),
            flags=part.flags | _TIME_SHARE,
        )
        for part, least, most in zip(parts, least_j, most_j, strict=True)
    )


def _with_faults(
    part: DeviceEnergy, index: int, begin: EdgeState, end: EdgeState, below_j: float, most_w: float
) -> DeviceEnergy:
    """Widen the figures of a device by the gaps, lost wraps and flags between two edges."""
    before = begin.quality[index] if begin.quality is not None else _NO_FAULT
    after = end.quality[index] if end.quality is not None else _NO_FAULT
    share = end.shares[index]
    flags = {flag for flag, seen_ns in after.flags.items() if seen_ns > begin.now_ns} | part.flags
    filled_j = min(part.inclusive_j, max(0.0, after.filled_j - before.filled_j) * share)
    blind_s = max(0.0, after.blind_s - before.blind_s)
    gap_s = max(0.0, after.gap_s - before.gap_s, blind_s)
    if gap_s > 0:
        flags |= after.flags.keys() & {"gap", "stuck", "silent"}
    unknown_j = after.ambiguous_j - before.ambiguous_j + blind_s * most_w
    less_j = more_j = filled_j
    before_j, after_j = begin.devices[index][0], end.devices[index][0]
    unsure = doubt(before.sampled, before_j, after.sampled, after_j)
    if unsure > 0:
        least_j, most_j = _by_samples(part.inclusive_j, after_j - before_j, unsure)
        less_j += max(0.0, part.inclusive_j - least_j)
        more_j += max(0.0, most_j - part.inclusive_j)
        flags |= _SAMPLED
    return part._replace(
        filled_j=filled_j,
        below_j=min(part.inclusive_j, below_j + less_j),
        above_j=part.above_j + unknown_j * share + more_j,
        gap_s=gap_s,
        flags=frozenset(flags),
    )


def _by_samples(joules: float, device_j: float, unsure: float) -> tuple[float, float]:
    """Bounds on joules that are a part of the device's, found by 1 / `unsure` samples (Wilson, JASA 22:158, 1927).

    Unlike twice the standard error, they hold for few samples, and for a part near 0 or 1.
    """
    squared = _COVERED**2 * unsure
    part = min(1.0, joules / device_j)
    middle = part + squared / 2
    half = math.sqrt(squared * part * (1 - part) + squared**2 / 4)
    whole_j = device_j / (1 + squared)
    return whole_j * max(0.0, middle - half), whole_j * (middle + half)


def _ahead_j(state: DeviceState, now_ns: int, least_w: float, most_w: float) -> tuple[float, float]:
    """Bounds in joules on how far the timeline led the device at an edge; negative where it lagged."""
    published_j, read_j, _, read_ns, took_ns = state
    since_ns = now_ns - read_ns if now_ns > read_ns else 0
    # The reading may be of any moment until it ended.
    least_ns = since_ns - took_ns
    ahead_j = published_j - read_j
    least_j = (least_w if least_ns > 0 else most_w) * least_ns * S_PER_NS
    return ahead_j - most_w * since_ns * S_PER_NS, ahead_j - least_j


def shares_between(begin: EdgeState, end: EdgeState) -> dict[str, float]:
    """The process's mean share of the host between two edges, in [0, 1], by each rule of attribution."""
    seconds = (end.now_ns - begin.now_ns) * S_PER_NS
    if seconds <= 0:
        return {}
    means = {
        "reserved": (end.reserved_s - begin.reserved_s) / seconds,
        "process": (end.process_s - begin.process_s) / seconds,
    }
    # Shares change at ticks. An edge between two ticks extrapolates the last ones, so the mean is clamped.
    return {rule: min(1.0, max(0.0, mean)) for rule, mean in means.items()}

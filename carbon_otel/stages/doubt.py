"""How sure a stage's figure of one device is, from what the meter knew at the stage's two edges."""

from __future__ import annotations

from typing import Final

from carbon_otel.meter.meter import Edge, Gap, Late, Track
from carbon_otel.sensors.base import Sensor
from carbon_otel.stages.records import DeviceEnergy

_NO_GAP: Final = Gap(0.0, 0.0, 0.0)
# A window of fewer renewals of the counter than this is flagged.
_SHORT_PERIODS: Final = 5


def device_energy(
    track: Track, index: int, begin: Edge, end: Edge, exclusive_j: float, inclusive_j: float
) -> DeviceEnergy:
    """One device's part of a record. Joules that may be wrong beyond the device's band:

    * an edge that was extrapolated: since the last reading the device drew between its least and its most power;
    * the counter's quantum: at constant power, with edges anywhere within its period T, sigma = P T / sqrt(6);
    * what gaps were filled with, up or down, and what whole wraps may be lacking, upwards.
    """
    sensor = track.timeline.sensor
    period_s = sensor.update_period_s
    duration_s = (end.now_ns - begin.now_ns) * 1e-9
    flags = {flag for flag, seen_ns in track.timeline.flags.items() if seen_ns >= begin.now_ns}
    below = above = 0.0
    for edge in (begin, end):
        for late in edge.late:
            if late.track == index:
                down, up = _extrapolated(sensor, late)
                below, above = below + down, above + up
    if sensor.device.method == "measured.counter" and duration_s > 0:
        quantum = inclusive_j / duration_s * period_s / 6**0.5
        below, above = below + quantum, above + quantum
        if duration_s < _SHORT_PERIODS * period_s:
            flags.add("short")
    before, after = (edge.gaps[index] if edge.gaps else _NO_GAP for edge in (begin, end))
    filled_j = min(inclusive_j, max(0.0, after.filled_j - before.filled_j) * track.share)
    gap_s = max(0.0, after.gap_s - before.gap_s)
    if gap_s > 0:
        flags |= track.timeline.flags.keys() & {"gap", "stuck"}
    return DeviceEnergy(
        device=sensor.device,
        exclusive_j=exclusive_j,
        inclusive_j=inclusive_j,
        filled_j=filled_j,
        below_j=min(inclusive_j, below * track.share + filled_j),
        above_j=(above + after.ambiguous_j - before.ambiguous_j) * track.share + filled_j,
        gap_s=gap_s,
        flags=frozenset(flags),
    )


def _extrapolated(sensor: Sensor, late: Late) -> tuple[float, float]:
    least_w, most_w = sensor.power_bounds_w
    return max(0.0, late.power_w - least_w) * late.seconds, max(0.0, most_w - late.power_w) * late.seconds

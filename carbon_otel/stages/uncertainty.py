"""The uncertainty of a stage's figure of one device, from the meter's states at the stage's two edges."""

from __future__ import annotations

from typing import Final

from carbon_otel.meter.meter import DeviceState, EdgeState, QualityCounters
from carbon_otel.records import DeviceEnergy
from carbon_otel.sensors.base import Sensor
from carbon_otel.units import S_PER_NS

_NO_FAULT: Final = QualityCounters(0.0, 0.0, 0.0, {})
# A window of fewer periods of the counter than this is flagged.
_SHORT_PERIODS: Final = 5


def device_energy(
    sensor: Sensor, index: int, begin: EdgeState, end: EdgeState, exclusive_j: float, inclusive_j: float
) -> DeviceEnergy:
    """One device's figures in a record. Beyond the device's band these joules are uncertain:

    * at an edge without a fresh reading: since the last one the device drew between its least and its most
      power, and the timeline may already have been ahead of it; a slow reading may be of any moment of it;
    * the counter's quantum: with edges anywhere within its period T, up to P T; where the device drew more at an
      edge than on average, that many times more;
    * the joules that gaps were filled with, up or down, and lost whole wraps, upwards.
    """
    duration_s = (end.now_ns - begin.now_ns) * S_PER_NS
    share = end.shares[index]
    before, after = (edge.quality[index] if edge.quality else _NO_FAULT for edge in (begin, end))
    flags = {flag for flag, seen_ns in after.flags.items() if seen_ns > begin.now_ns}
    least_ahead, most_ahead = _ahead(sensor, index, begin)
    least_behind, most_behind = _ahead(sensor, index, end)
    below, above = max(0.0, most_behind - least_ahead), max(0.0, most_ahead - least_behind)
    quantum_j = 0.0
    if sensor.quantum_s > 0 and duration_s > 0:
        mean_w = inclusive_j / duration_s
        quantum_j = _quantum_j(sensor.quantum_s, mean_w, begin.devices[index], end.devices[index], duration_s)
        if duration_s < _SHORT_PERIODS * sensor.quantum_s:
            flags.add("short")
    filled_j = min(inclusive_j, max(0.0, after.filled_j - before.filled_j) * share)
    gap_s = max(0.0, after.gap_s - before.gap_s)
    if gap_s > 0:
        flags |= after.flags.keys() & {"gap", "stuck"}
    return DeviceEnergy(
        device=sensor.device,
        exclusive_j=exclusive_j,
        inclusive_j=inclusive_j,
        filled_j=filled_j,
        below_j=min(inclusive_j, below * share + quantum_j + filled_j),
        above_j=(above + after.ambiguous_j - before.ambiguous_j) * share + quantum_j + filled_j,
        gap_s=gap_s,
        flags=frozenset(flags),
    )


def _quantum_j(
    period_s: float, mean_w: float, begin: DeviceState, end: DeviceState, duration_s: float
) -> float:
    """The most joules that the counter's steps hide of a stage that paid `mean_w` on average."""
    (begin_j, _, begin_w, _, _), (end_j, _, end_w, _, _) = begin, end
    device_w = (end_j - begin_j) / duration_s
    peak = max(begin_w, end_w) / device_w if device_w > 0 else 1.0
    return mean_w * period_s * max(1.0, peak)


def shares_between(begin: EdgeState, end: EdgeState) -> dict[str, float]:
    """The process's mean share of the host between two edges, in [0, 1], by each rule of attribution."""
    seconds = (end.now_ns - begin.now_ns) * S_PER_NS
    if seconds <= 0:
        return {}
    means = {
        "reserved": (end.reserved_s - begin.reserved_s) / seconds,
        "process": (end.process_s - begin.process_s) / seconds,
    }
    # New shares are known at ticks; an edge between two ticks extrapolates the last ones, so clamp.
    return {rule: min(1.0, max(0.0, mean)) for rule, mean in means.items()}


def _ahead(sensor: Sensor, index: int, edge: EdgeState) -> tuple[float, float]:
    """Bounds in joules on how far the timeline led the device at an edge; negative where it lagged."""
    published_j, read_j, _, read_ns, took_ns = edge.devices[index]
    since_read_s = max(0, edge.now_ns - read_ns) * S_PER_NS
    # The reading may be of any moment until it ended.
    least_s = since_read_s - took_ns * S_PER_NS
    least_w, most_w = sensor.power_bounds_w
    ahead_j = published_j - read_j
    return ahead_j - most_w * since_read_s, ahead_j - (least_w if least_s > 0 else most_w) * least_s

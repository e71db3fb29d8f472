"""How sure a stage's figure of one device is, from what the meter knew at the stage's two edges."""

from __future__ import annotations

from typing import Final

from carbon_otel.meter.meter import DeviceState, EdgeState, QualityCounters
from carbon_otel.records import DeviceEnergy
from carbon_otel.sensors.base import Sensor
from carbon_otel.units import S_PER_NS

_NO_FAULT: Final = QualityCounters(0.0, 0.0, 0.0, {})
# A window of fewer renewals of the counter than this is flagged.
_SHORT_PERIODS: Final = 5


def device_energy(
    sensor: Sensor, index: int, begin: EdgeState, end: EdgeState, exclusive_j: float, inclusive_j: float
) -> DeviceEnergy:
    """One device's part of a record. Joules that may be wrong beyond the device's band:

    * an edge without a fresh reading: since the last one the device drew between its least and its most power,
      and the timeline may already have been ahead of it;
    * the counter's quantum: with edges anywhere within its period T, up to P T; where the device drew more at an
      edge than on average, that much more;
    * what gaps were filled with, up or down, and what whole wraps may be lacking, upwards.
    """
    period_s = sensor.update_period_s
    duration_s = (end.now_ns - begin.now_ns) * 1e-9
    share = end.shares[index]
    before, after = (edge.quality[index] if edge.quality else _NO_FAULT for edge in (begin, end))
    flags = {flag for flag, seen_ns in after.flags.items() if seen_ns > begin.now_ns}
    least_ahead, most_ahead = _ahead(sensor, index, begin)
    least_behind, most_behind = _ahead(sensor, index, end)
    below, above = max(0.0, most_behind - least_ahead), max(0.0, most_ahead - least_behind)
    # A MIG instance is modelled from its GPU's counter, and has its quantum.
    quantum = 0.0
    counted = sensor.device.method == "measured.counter" or sensor.device.type == "gpu"
    if counted and sensor.kind == "counter" and duration_s > 0:
        quantum = _quantum(
            period_s, inclusive_j / duration_s, begin.devices[index], end.devices[index], duration_s
        )
        if duration_s < _SHORT_PERIODS * period_s:
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
        below_j=min(inclusive_j, below * share + quantum + filled_j),
        above_j=(above + after.ambiguous_j - before.ambiguous_j) * share + quantum + filled_j,
        gap_s=gap_s,
        flags=frozenset(flags),
    )


def _quantum(
    period_s: float, watts: float, begin: DeviceState, end: DeviceState, duration_s: float
) -> float:
    """The most that the counter's steps hide, in joules of a stage that paid `watts` on average."""
    (begin_j, _, begin_w, _, _), (end_j, _, end_w, _, _) = begin, end
    mean_w = (end_j - begin_j) / duration_s
    peak: float = max(begin_w, end_w) / mean_w if mean_w > 0 else 1.0
    return watts * period_s * max(1.0, peak)


def shares_between(begin: EdgeState, end: EdgeState) -> dict[str, float]:
    """The process's mean share of the host between two edges, by each rule; new shares are known at ticks."""
    seconds = (end.now_ns - begin.now_ns) * S_PER_NS
    if seconds <= 0:
        return {}
    means = {
        "reserved": (end.reserved_s - begin.reserved_s) / seconds,
        "process": (end.process_s - begin.process_s) / seconds,
    }
    # A stage that began in the middle of an interval took its share from the interval before.
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

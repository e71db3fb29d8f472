"""The update period of the energy counter of a GPU, learned by watching the counter.

NVIDIA does not publish the period; 20 to 100 ms were observed, by model (Yang et al., SC 2024). It is the quantum
of every window: a wrong period makes the band of short stages wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Final

from carbon_otel.sensors.base import SensorError
from carbon_otel.units import NS_PER_S, S_PER_NS

_BURST_S: Final = 0.5
_READS: Final = 50
_SPACING_S: Final = _BURST_S / _READS


def learn_period(
    read: Callable[[], float],
    assumed_s: float,
    clock_ns: Callable[[], int],
    sleep: Callable[[float], None],
) -> float | None:
    """The update period in seconds of the counter behind `read`, from 50 readings within 0.5 s at most.

    Never shorter than the true period: for a period below the spacing of the readings, the spacing is returned;
    for a period that is too long for the burst, the longest time without a change, but at least `assumed_s`. None
    if a reading fails.
    """
    last_raw: float | None = None
    readings_ns: list[int] = []
    changes_ns: list[int] = []
    end_ns = clock_ns() + int(_BURST_S * NS_PER_S)
    for _ in range(_READS):
        try:
            raw = read()
        except SensorError:
            return None
        now_ns = clock_ns()
        readings_ns.append(now_ns)
        if last_raw is not None and raw != last_raw:
            changes_ns.append(now_ns)
        last_raw = raw
        left_s = (end_ns - now_ns) * S_PER_NS
        if left_s <= 0:
            break
        sleep(min(_SPACING_S, left_s))
    if len(changes_ns) >= 2:
        mean_s = (changes_ns[-1] - changes_ns[0]) / (len(changes_ns) - 1) * S_PER_NS
        return max(_SPACING_S, mean_s)
    if len(readings_ns) < 2:
        return None
    marks = [readings_ns[0], *changes_ns, readings_ns[-1]]
    still_ns = max(later - earlier for earlier, later in pairwise(marks))
    return max(assumed_s, still_ns * S_PER_NS)

"""How often a GPU renews its energy counter, learned by watching it.

NVIDIA does not publish the period; 20 to 100 ms were seen, by model (Yang et al., SC 2024). It is the quantum
of every window: a wrong one makes the band of short stages a lie.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Final

from carbon_otel.sensors.base import Sensor, SensorError
from carbon_otel.sensors.nvidia.gpu import NvmlGpu
from carbon_otel.units import NS_PER_S, S_PER_NS

_BURST_S: Final = 0.5
_READS: Final = 50


def learn_periods(
    sensors: Iterable[Sensor],
    clock_ns: Callable[[], int] = time.monotonic_ns,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Set `update_period_s` of the GPUs with a counter: one burst of 0.5 s and 50 readings at most, for all.

    GPUs of one name have one firmware: one of them is watched. A period shorter than the readings' spacing is
    given as the spacing, one that is too long for the burst as the longest time the counter stood still: never
    shorter than it is. A GPU that fails meanwhile keeps what it had.
    """
    alike: dict[str, list[NvmlGpu]] = {}
    for sensor in sensors:
        if isinstance(sensor, NvmlGpu) and sensor.kind == "counter":
            alike.setdefault(sensor.device.name, []).append(sensor)
    if not alike:
        return
    watches = {name: _Watch(gpus[0]) for name, gpus in alike.items()}
    rounds = max(1, _READS // len(watches))
    spacing_s = _BURST_S / rounds
    begin_ns = clock_ns()
    end_ns = begin_ns + int(_BURST_S * NS_PER_S)
    for _ in range(rounds):
        for watch in watches.values():
            watch.look(clock_ns)
        left_s = (end_ns - clock_ns()) * S_PER_NS
        if left_s <= 0:
            break
        sleep(min(spacing_s, left_s))
    for name, watch in watches.items():
        period_s = watch.period_s()
        if period_s is not None:
            for gpu in alike[name]:
                gpu.update_period_s = max(spacing_s, period_s)


class _Watch:
    """When the counter of one GPU was seen to change."""

    def __init__(self, gpu: NvmlGpu) -> None:
        self._gpu = gpu
        self._raw: float | None = None
        self._looks_ns: list[int] = []
        self._changes_ns: list[int] = []
        self._failed = False

    def look(self, clock_ns: Callable[[], int]) -> None:
        if self._failed:
            return
        try:
            raw = self._gpu.read()
        except SensorError:
            self._failed = True
            return
        now_ns = clock_ns()
        self._looks_ns.append(now_ns)
        if self._raw is not None and raw != self._raw:
            self._changes_ns.append(now_ns)
        self._raw = raw

    def period_s(self) -> float | None:
        if self._failed or len(self._looks_ns) < 2:
            return None
        changes = self._changes_ns
        if len(changes) >= 2:
            return (changes[-1] - changes[0]) / (len(changes) - 1) * S_PER_NS
        marks = [self._looks_ns[0], *changes, self._looks_ns[-1]]
        still_ns = max(later - earlier for earlier, later in pairwise(marks))
        return max(self._gpu.update_period_s, still_ns * S_PER_NS)

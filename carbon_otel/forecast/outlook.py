"""The forecast in the run: from the time of the steps that are done to the time of all of them.

The mean of the first steps misleads: the first steps compile and fill caches, a first epoch reads from a disk, and
evaluations and checkpoints pause the steps at times. So the slow beginning is set apart, and pauses are counted
with the distance that they have had.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from carbon_otel.forecast.records import Interval

# Two neighbours are merged when there are more: a loop may have millions of steps.
_MOST: Final = 1024
# A beginning is set apart if its steps take this much longer, or shorter, than those after it.
_UNLIKE: Final = 1.15
# Longer steps, in medians, count as this long in the search for the slow beginning.
_LONG: Final = 4.0
# A pause takes at least this many times as long as other steps, and lies this far beyond their spread.
_PAUSE: Final = 1.5
_DEVIATIONS: Final = 6.0
# Distances of regular pauses differ by less than this share of their median.
_REGULAR: Final = 0.25
# A change of the pace that no step has shown yet, as a share of what is left. Our choice.
_DRIFT: Final = 0.03
_Z90: Final = 1.2816


@dataclass(frozen=True, slots=True)
class _Group:
    """Steps in a row, and the seconds that they took together."""

    steps: float
    seconds: float

    @property
    def pace(self) -> float:
        return self.seconds / self.steps


class Pace:
    """The times of the steps of a loop with a known number of steps."""

    def __init__(self, total: float, start_s: float) -> None:
        """`total` is the number of steps, `start_s` the present time on a monotonic clock."""
        if not 0 < total < math.inf:
            raise ValueError(f"total is {total}; write the number of steps, above 0")
        self.total = total
        self.done = 0.0
        self.start_s = self.now_s = start_s
        self._groups: list[_Group] = []
        self._per_group = 1.0
        self._open_steps = 0.0
        self._open_since_s = start_s

    def step(self, now_s: float, steps: float = 1.0) -> None:
        """So many steps are done since the last call."""
        self.done += steps
        self.now_s = now_s
        self._open_steps += steps
        if self._open_steps < self._per_group:
            return
        self._groups.append(_Group(self._open_steps, now_s - self._open_since_s))
        self._open_steps, self._open_since_s = 0.0, now_s
        if len(self._groups) > _MOST:
            pairs = zip(self._groups[::2], self._groups[1::2], strict=False)
            last = self._groups[-1:] if len(self._groups) % 2 else []
            self._groups = [_Group(a.steps + b.steps, a.seconds + b.seconds) for a, b in pairs] + last
            self._per_group *= 2

    @property
    def elapsed_s(self) -> float:
        """Seconds from the start to the last step."""
        return self.now_s - self.start_s

    @property
    def settled_s(self) -> float:
        """The time at which the slow beginning was over; the start if there is none."""
        return self.start_s + sum(group.seconds for group in self._groups[: _beginning(self._groups)])

    def left_s(self) -> Interval:
        """Seconds from the last step to the end."""
        left = max(0.0, self.total - self.done)
        if left == 0:
            return Interval.exact(0.0)
        groups = self._groups
        if not groups:
            mean = self.elapsed_s / self.done if self.done else 0.0
            return Interval(left * mean / 2, left * mean, left * mean * 2)
        begin = _beginning(groups)
        pauses = _pauses(groups[:begin], 0) + _pauses(groups[begin:], begin)
        plain = [g for i, g in enumerate(groups) if i >= begin and i not in {p.index for p in pauses}]
        settled = plain or list(groups[begin:])
        pace = sum(g.seconds for g in settled) / sum(g.steps for g in settled)
        for_pauses, doubt_s = self._pausing(groups, [p for p in pauses if p.index > 0], left)
        middle = left * pace + for_pauses
        error = _Z90 * math.hypot(left * pace * math.hypot(_standard_error(settled), _DRIFT), doubt_s)
        return Interval(max(0.0, middle - error), middle, middle + error)

    def _pausing(
        self, groups: Sequence[_Group], pauses: Sequence[_Pause], left: float
    ) -> tuple[float, float]:
        """Seconds of the pauses to come, and their uncertainty."""
        if not pauses:
            return 0.0, 0.0
        ends = list(itertools.accumulate(group.steps for group in groups))
        at = [ends[pause.index] for pause in pauses]
        each_s = statistics.fmean(pause.extra_s for pause in pauses)
        spread = statistics.pstdev([pause.extra_s for pause in pauses]) / math.sqrt(len(pauses))
        distances = [b - a for a, b in itertools.pairwise([0.0, *at])]
        middle = statistics.median(distances)
        waited = self.done - at[-1]
        regular = max(distances) - min(distances) <= _REGULAR * middle and waited < (1 + _REGULAR) * middle
        # A step may be one of a group, so the last pause may just be within the total.
        count = (
            math.floor((self.total - at[-1]) / middle + 0.01) if regular else len(pauses) * left / self.done
        )
        doubt = each_s * math.sqrt(count) if len(pauses) == 1 or not regular else 0.0
        return count * each_s, math.hypot(doubt, count * spread)


@dataclass(frozen=True, slots=True)
class _Pause:
    index: int
    extra_s: float


def _beginning(groups: Sequence[_Group]) -> int:
    """How many groups belong to a slow beginning: the split that two medians fit best, if they differ."""
    if len(groups) < 2:
        return 0
    # A single long step must not hide a slow epoch.
    limit = _LONG * statistics.median(group.pace for group in groups)
    paces = [min(group.pace, limit) for group in groups]
    longest = max(1, len(paces) // 2)
    coarse = sorted({max(1, round(longest * (i / 24) ** 2)) for i in range(1, 25)})
    at = min(range(len(coarse)), key=lambda i: _split(paces, coarse[i]))
    fine = range(coarse[max(0, at - 1)], coarse[min(len(coarse) - 1, at + 1)] + 1)
    best = min(fine[:: max(1, len(fine) // 64)], key=lambda begin: _split(paces, begin))
    if _split(paces, best) >= 0.98 * _spread(paces):
        return 0
    before, after = statistics.median(paces[:best]), statistics.median(paces[best:])
    unlike = after == 0 or not 1 / _UNLIKE < before / after < _UNLIKE
    return best if unlike else 0


def _split(paces: Sequence[float], begin: int) -> float:
    return _spread(paces[:begin]) + _spread(paces[begin:])


def _spread(paces: Sequence[float]) -> float:
    middle = statistics.median(paces)
    return math.fsum(abs(pace - middle) for pace in paces)


def _pauses(groups: Sequence[_Group], offset: int) -> list[_Pause]:
    if len(groups) < 3:
        return []
    paces = [group.pace for group in groups]
    middle = statistics.median(paces)
    deviation = 1.4826 * statistics.median(abs(pace - middle) for pace in paces)
    limit = max(_PAUSE * middle, middle + _DEVIATIONS * deviation)
    return [
        _Pause(offset + i, group.seconds - group.steps * middle)
        for i, group in enumerate(groups)
        if group.pace > limit
    ]


def _standard_error(groups: Sequence[_Group]) -> float:
    """Relative standard error of the mean pace."""
    paces = [group.pace for group in groups]
    mean = statistics.fmean(paces)
    if len(paces) < 2 or mean == 0:
        return 0.1
    # Neighbouring steps are alike, so the means of up to ten blocks are compared.
    size = max(1, len(paces) // 10)
    blocks = [statistics.fmean(paces[i : i + size]) for i in range(0, len(paces) - size + 1, size)]
    return statistics.stdev(blocks) / math.sqrt(len(blocks)) / mean

"""When the energy counter of a GPU is renewed, learned by watching it.

NVIDIA publishes neither how often nor when; every 20 to 100 ms were observed, by model (Yang et al., SC 2024). An
H200 renews it at equal intervals of the monotonic clock, to 10 ppm (tests/hardware/README.md). Who knows the
interval and one moment knows how old each reading is. Of other readings it is known on the mean: half an interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from statistics import median
from typing import Final, NamedTuple

from carbon_otel import clock
from carbon_otel.sensors.base import SensorError
from carbon_otel.units import NS_PER_S, S_PER_NS

_WATCH_NS: Final = NS_PER_S // 2
_READS: Final = 50
_SPACING_NS: Final = _WATCH_NS // _READS
_LEAST_SPACINGS: Final = 4
# Near an expected renewal, readings are so many of its intervals apart.
_FINE: Final = 1 / 50
# The parts of an interval by which a moment may be unsure: to be of use, and to be looked for.
_USEFUL, _EXPECTED = 1 / 8, 1 / 4
# The clocks of a card and of its host drift apart, and not always by the same: an interval is known to this part
# at best, and from the renewals of this time at most.
_DRIFT: Final = 50e-6
_LONGEST_NS: Final = 600 * NS_PER_S
# The time between two ticks, with some more; how far the next look is, at most; and the looks at a time.
_TICK_NS: Final = NS_PER_S * 11 // 10
_FAR_NS: Final = NS_PER_S * 3 // 10
_LOOKS: Final = 4
# A rhythm that has been found for so long is none by chance.
_LASTING_NS: Final = 10 * NS_PER_S
# How long it is not looked at, at most: while the next renewal is sure, and where it was not seen.
_SELDOM_NS: Final = 30 * NS_PER_S
_LATER_NS: Final = 300 * NS_PER_S


Sleep = Callable[[float], object]


class _Look(NamedTuple):
    """A reading: the moments between which the counter was read, how long it took, and its value."""

    earliest_ns: float
    latest_ns: float
    took_ns: int
    raw: float


class _Sight(NamedTuple):
    """A renewal between two readings: the moment in the middle, and half of the time between them."""

    at_ns: float
    unsure_ns: float


class _Known(NamedTuple):
    """Two renewals, and the number of intervals between them."""

    first: _Sight
    last: _Sight
    intervals: int

    @property
    def interval_ns(self) -> float:
        return (self.last.at_ns - self.first.at_ns) / self.intervals

    @property
    def interval_unsure_ns(self) -> float:
        seen_ns = (self.first.unsure_ns + self.last.unsure_ns) / self.intervals
        return max(seen_ns, _DRIFT * self.interval_ns)

    def unsure_ns(self, at_ns: float) -> float:
        """How far the renewals about this moment may be from where they are expected."""
        return self.last.unsure_ns + abs(at_ns - self.last.at_ns) / self.interval_ns * self.interval_unsure_ns

    def is_sure(self, at_ns: float) -> bool:
        """Whether the renewals about this moment can be told from their neighbours."""
        return self.unsure_ns(at_ns) <= _EXPECTED * self.interval_ns

    @property
    def useful_until_ns(self) -> float:
        """Until when a moment is sure enough to be of use."""
        left = (_USEFUL * self.interval_ns - self.last.unsure_ns) / self.interval_unsure_ns
        return self.last.at_ns + max(0.0, left) * self.interval_ns


class UpdateClock:
    """Watches the counter behind `read`, on one thread; any thread may ask what is known."""

    def __init__(
        self,
        read: Callable[[], float],
        assumed_s: float,
        assumed_reading_s: float,
        clock_ns: Callable[[], int] = clock.monotonic_ns,
    ) -> None:
        self._read, self._clock_ns = read, clock_ns
        self.period_s = assumed_s
        # The shortest lately, and the median.
        self.reading_s = self.usual_reading_s = assumed_reading_s
        self._known: _Known | None = None
        self._due_ns = 0
        self._failures = 0
        self._losses = 0

    def watch(self, sleep: Sleep) -> bool:
        """Learn the period from 50 readings within 0.5 s, then look at a renewal; False if a reading fails.

        The period is never shorter than the true one: for one below the spacing of the readings, the spacing; for
        one that is too long, the longest time without a change, but at least what was assumed.
        """
        looks = self._looks(sleep)
        if len(looks) < 2:
            return False
        self.reading_s = self.usual_reading_s = median(look.took_ns for look in looks) * S_PER_NS
        changes = _changes(looks)
        if len(changes) >= 2:
            self.period_s = max(_SPACING_NS, _mean_interval_ns(changes)) * S_PER_NS
        else:
            marks = [looks[0].earliest_ns, *(change.at_ns for change in changes), looks[-1].latest_ns]
            still_ns = max(later - earlier for earlier, later in pairwise(marks))
            self.period_s = max(self.period_s, still_ns * S_PER_NS)
        self._known = _learned(changes, self._spacing_ns)
        if self._known is not None:
            self.follow(sleep)
        if self._known is not None:
            self.period_s = self._known.interval_ns * S_PER_NS
        return True

    @property
    def due(self) -> bool:
        """Whether the counter should be looked at again."""
        return self._clock_ns() >= self._due_ns

    def follow(self, sleep: Sleep) -> None:
        """Look at a renewal, for as long as it is unsure; where nothing is known, watch before, and look again."""
        now_ns, losses, known = self._clock_ns(), self._losses, self._known
        failures = self._failures
        self._due_ns, self._failures = now_ns + min(_LATER_NS, NS_PER_S << failures), failures + 1
        if known is None or not known.is_sure(now_ns + known.interval_ns):
            known = self._known = _learned(_changes(self._looks(sleep)), self._spacing_ns)
        for _ in range(_LOOKS):
            seen = None if known is None else self._expected(known, sleep)
            if known is None or seen is None or losses != self._losses:
                return
            self._known = known = _with(known, seen)
            if losses != self._losses:  # it was lost on another thread meanwhile
                self.lose()
                return
            lasted_ns = seen.at_ns - known.first.at_ns
            self._failures = 0 if lasted_ns > _LASTING_NS else failures
            # By then the next renewal is little less sure than this one.
            self._due_ns = round(seen.at_ns + min(_SELDOM_NS, lasted_ns / 4))
            if known.is_sure(seen.at_ns + _TICK_NS):
                return

    def lose(self) -> None:
        """Forget the moments: the counter has begun again, or the host has slept. On any thread."""
        self._losses += 1
        self._known, self._due_ns, self._failures = None, 0, 0

    def shown(self, began_ns: int, took_ns: int) -> tuple[int, int]:
        """The moment up to which a reading has what was drawn, and how far that may be off, in ns."""
        interval_ns = self.period_s * NS_PER_S
        at_ns = began_ns + took_ns // 2
        known = self._known
        if known is not None:
            interval_ns = known.interval_ns
            # A reading that took long may be of any moment of that time.
            unsure_ns = known.unsure_ns(at_ns) + max(0.0, took_ns - self.reading_s * NS_PER_S) / 2
            age_ns = (at_ns - known.last.at_ns) % interval_ns
            # Close to a renewal it may be from before it or after it.
            if unsure_ns < _USEFUL * interval_ns and unsure_ns < age_ns < interval_ns - unsure_ns:
                return round(at_ns - age_ns), round(unsure_ns)
        half_ns = round(interval_ns / 2)
        return at_ns - half_ns, half_ns

    @property
    def _spacing_ns(self) -> float:
        """Of the readings of a watch."""
        return _SPACING_NS + self.reading_s * NS_PER_S

    def _looks(self, sleep: Sleep) -> list[_Look]:
        """Readings for half a second; none if one fails."""
        looks: list[_Look] = []
        end_ns = self._clock_ns() + _WATCH_NS
        for _ in range(_READS):
            try:
                looks.append(self._look())
            except SensorError:
                return []
            left_ns = end_ns - self._clock_ns()
            if left_ns <= 0:
                break
            sleep(min(_SPACING_NS, left_ns) * S_PER_NS)
        return looks

    def _expected(self, known: _Known, sleep: Sleep) -> _Sight | None:
        """A renewal as far as it is sure; None if it is not seen well. If none is there, what was known is wrong.

        The farther it is, the better it tells the interval.
        """
        interval_ns, now_ns = known.interval_ns, self._clock_ns()
        fine_ns = _FINE * interval_ns
        far_ns = max(now_ns, min(known.useful_until_ns, known.last.at_ns + _FAR_NS))
        unsure_ns = known.unsure_ns(far_ns + 2 * interval_ns)
        margin_ns = fine_ns + self.reading_s * NS_PER_S
        ahead = math.ceil((far_ns + unsure_ns + margin_ns - known.last.at_ns) / interval_ns)
        at_ns = known.last.at_ns + ahead * interval_ns
        sleep(max(0.0, at_ns - unsure_ns - margin_ns - now_ns) * S_PER_NS)
        before: _Look | None = None
        while before is None or before.earliest_ns < at_ns + unsure_ns:
            try:
                look = self._look()
            except SensorError:
                return None
            if before is None and look.latest_ns > at_ns - unsure_ns:  # this thread has slept for too long
                return None
            if before is not None and look.raw != before.raw:
                seen = _between(before, look)
                if seen.unsure_ns > _USEFUL * interval_ns:
                    return None
                if abs(seen.at_ns - at_ns) <= unsure_ns + seen.unsure_ns:
                    return seen
                break
            before = look
            sleep(max(0.0, fine_ns - look.took_ns) * S_PER_NS)
        self._known = None
        return None

    def _look(self) -> _Look:
        began_ns = self._clock_ns()
        raw = self._read()
        took_ns = self._clock_ns() - began_ns
        # While nothing else is at work, a reading takes as long as the shortest.
        self.reading_s = min(self.reading_s, took_ns * S_PER_NS)
        # In the middle, unless this thread had to wait before or after it.
        half_ns = min(took_ns, self.reading_s * NS_PER_S) / 2
        return _Look(began_ns + half_ns, began_ns + took_ns - half_ns, took_ns, raw)


def _changes(looks: list[_Look]) -> list[_Sight]:
    return [_between(before, after) for before, after in pairwise(looks) if after.raw != before.raw]


def _between(before: _Look, after: _Look) -> _Sight:
    first_ns, last_ns = before.earliest_ns, max(before.earliest_ns, after.latest_ns)
    return _Sight((first_ns + last_ns) / 2, (last_ns - first_ns) / 2)


def _mean_interval_ns(changes: list[_Sight]) -> float:
    return (changes[-1].at_ns - changes[0].at_ns) / (len(changes) - 1)


def _learned(changes: list[_Sight], spacing_ns: float) -> _Known | None:
    """The rhythm of some changes; None if they were seen too badly, or come too close, to be counted."""
    if len(changes) < 2 or max(change.unsure_ns for change in changes) > spacing_ns:
        return None
    apart_ns = [later.at_ns - earlier.at_ns for earlier, later in pairwise(changes)]
    usual_ns = median(apart_ns)
    if usual_ns < _LEAST_SPACINGS * spacing_ns:
        return None
    return _Known(changes[0], changes[-1], sum(round(each_ns / usual_ns) for each_ns in apart_ns))


def _with(known: _Known, seen: _Sight) -> _Known:
    """What is known with one more renewal: since the first one, or since the last one if that tells more."""
    later = round((seen.at_ns - known.last.at_ns) / known.interval_ns)
    long, short = _Known(known.first, seen, known.intervals + later), _Known(known.last, seen, later)
    drifted = seen.at_ns - known.first.at_ns > _LONGEST_NS
    return short if drifted or short.interval_unsure_ns < long.interval_unsure_ns else long

"""The joules of one device as a monotone function of time.

The counter's readings add up to the true energy (`true_j`). Between and after readings the timeline is
extrapolated with the last power (`published_j`). It never goes back: after a reading below the extrapolation it
stays constant until the true energy has reached it.

The rules for each reading:

* a reading counts for the moment at which it began. If it began before the last reading ended, their order is
  unknown (a thread waits for the interpreter between a reading and its clock), so it is dropped. The next
  reading covers its energy;
* a counter that steps back has wrapped if it can wrap and the energy is plausible; otherwise it was reset, and the
  new reading is a lower bound of the energy spent. What may be missing is counted in `ambiguous_j`;
* an implausible reading is set aside. If the next one agrees with the old counter, nothing is lost; if it
  agrees with the reading set aside, the counter has jumped, and the time up to the jump is a gap. What it rose by
  is counted in `ambiguous_j` if the device can have drawn it in seconds;
* a counter that steps back by less than one percent was neither reset nor has it wrapped: it is set aside;
* a failed reading opens a gap. Gaps are filled with the neighbouring power and counted in `gap_s` and
  `filled_j`; a counter that comes back closes its gap exactly;
* a slow counter tells how old a reading is. What the device has drawn since is added, by the power before; what
  the first reading did not show is left out;
* a counter that stands still shows later what the device draws now: nothing is counted until it does, or until it
  has stood for too long, which is a gap since its last change;
* a counter that has never changed says nothing: until it changes, the time since its first reading is counted in
  `blind_s`, and the device may have drawn any power.
"""

from __future__ import annotations

import math
from typing import Final

from carbon_otel.meter.recent_peak import RecentPeak
from carbon_otel.sensors.base import Sensor, Slow
from carbon_otel.units import S_PER_NS

# Two readings closer than this give a power that is mostly quantisation error.
_POWER_WINDOW_S: Final = 0.05
_WINDOW_PERIODS: Final = 2
_SLOW_WINDOW: Final = 1 / 4
# A counter that is unchanged for less than this time may simply not have been updated.
_RENEWED_WITHIN_PERIODS: Final = 5
_STUCK_AFTER_S: Final = 5.0
# The same for a counter that has never changed: its power is unknown, so it is not believed for as long.
_SILENT_AFTER_S: Final = 0.1
# The part of its count by which a counter steps back at least when it is reset.
_LEAST_RESET: Final = 0.01
# The device's clock may be faster than the monotonic clock by this factor.
_PLAUSIBLE_SLACK: Final = 1.001

# Joules published, joules read with what lags behind, the watts that may be hidden at an edge, the begin of the
# last good reading, and the time from there at some moment of which the counter showed this (ns). A plain tuple:
# every edge makes four of it, and a named tuple takes four times as long.
DeviceState = tuple[float, float, float, int, int]


class Timeline:
    """The joules of one device since the first reading. Times are monotonic nanoseconds.

    `last_ns` is the begin of the last good reading, `took_ns` the duration of the last reading, `power_w` the
    power before it, `lag_j` what a slow counter does not show yet. `flags` has the time of the last fault of each
    kind. `blind_s` are the seconds in which no reading has given a power; 0 as soon as one has.
    """

    __slots__ = (
        "_anchor_j",
        "_anchor_ns",
        "_before_ns",
        "_ended_ns",
        "_filled_before_gap_j",
        "_first_lag_j",
        "_first_ns",
        "_first_shown_ns",
        "_gap_s_before",
        "_is_counter",
        "_last_raw",
        "_most_w",
        "_next",
        "_peak",
        "_power_known",
        "_power_window_ns",
        "_renewal_s",
        "_slack_s",
        "_slow",
        "_still",
        "_sure_s",
        "_suspect",
        "_unfilled_s",
        "_unit_j",
        "ambiguous_j",
        "blind_s",
        "filled_j",
        "flags",
        "gap_s",
        "gap_since_ns",
        "lag_j",
        "last_ns",
        "power_w",
        "published_j",
        "sensor",
        "took_ns",
        "true_j",
    )

    def __init__(self, sensor: Sensor) -> None:
        self.sensor = sensor
        self.true_j = 0.0
        self.published_j = 0.0
        self.power_w = 0.0
        self.gap_since_ns: int | None = None
        self.gap_s = 0.0
        self.filled_j = 0.0
        self.ambiguous_j = 0.0
        self.blind_s = 0.0
        self.flags: dict[str, int] = {}
        self.last_ns = 0
        self.took_ns = 0
        self.lag_j = 0.0
        self._first_lag_j: float | None = None
        self._first_ns = self._first_shown_ns = 0
        self._ended_ns = 0
        self._last_raw: float | None = None
        # A reading that is being entered: an exception may arrive between two assignments, and joules that are
        # counted without their reading would be counted again.
        self._next: tuple[int, float, float] | None = None
        self._suspect: tuple[int, float] | None = None
        self._anchor_ns = 0
        self._anchor_j = 0.0
        # Whether the counter has been read since its last change, which should have come by then.
        self._still = False
        self._before_ns = 0  # the begin of the good reading before the last one
        self._unfilled_s = 0.0
        self._gap_s_before = 0.0
        self._filled_before_gap_j = 0.0
        self._is_counter = sensor.kind == "counter"
        self._slow = sensor if isinstance(sensor, Slow) else None
        self._peak = RecentPeak() if self._slow else None
        self._power_known = False
        self._unit_j = sensor.joules_per_unit
        self._most_w = sensor.power_bounds_w[1] * _PLAUSIBLE_SLACK
        # In a shorter time the counter cannot have wrapped completely.
        self._sure_s = (
            math.inf if sensor.wrap is None else sensor.wrap * self._unit_j / (self._most_w or math.inf)
        )
        self.renew_period()

    def renew_period(self) -> None:
        """Take over the sensor's update period."""
        period_s = self.sensor.update_period_s
        self._slack_s = 2 * period_s
        self._renewal_s = _RENEWED_WITHIN_PERIODS * period_s
        # What a slow counter shows is as old as it says, so a part of a period gives a power.
        window_s = _SLOW_WINDOW * period_s if self._slow else max(_POWER_WINDOW_S, _WINDOW_PERIODS * period_s)
        self._power_window_ns = int(window_s / S_PER_NS)
        if self._last_raw is not None and self._anchor_ns == self._first_shown_ns:
            self._note_first(self._first_ns)

    def observe(self, now_ns: int, raw: float, took_ns: int = 0) -> None:
        """Enter a reading (counter units or watts) that began at `now_ns` and took `took_ns`."""
        if self._next is not None:
            self._count(*self._next)
        if now_ns < self._ended_ns and not self._goes_on(now_ns, raw):
            return
        self._ended_ns, self.took_ns = now_ns + took_ns, took_ns
        if self._last_raw is None:
            self._observe_first(now_ns, raw)
        elif now_ns <= self.last_ns:
            return
        elif self._is_counter:
            self._observe_counter(now_ns, raw, self._last_raw)
        else:
            self._observe_power(now_ns, raw, self._last_raw)

    def _goes_on(self, now_ns: int, raw: float) -> bool:
        """Whether the counter has not gone back in a reading that began before the last one ended.

        Such a reading counts: a thread that waits for its turn may let its own last for many milliseconds.
        """
        last = self._last_raw
        return self._is_counter and last is not None and raw >= last and now_ns > self.last_ns

    def miss(self, now_ns: int) -> None:
        """Enter a failed reading that began at `now_ns`: a gap begins at the last good reading."""
        if now_ns < self._ended_ns:
            return
        self._open_gap(now_ns)

    def _open_gap(self, now_ns: int) -> None:
        self._still = False
        if self.gap_since_ns is None:
            self.gap_since_ns = self.last_ns or now_ns
            self._gap_s_before = self.gap_s
            self._filled_before_gap_j = self.filled_j
            self.flag("gap", now_ns)
        self.at(now_ns)

    def edge(self) -> DeviceState:
        """The state at an edge, after `at` to the same moment."""
        began_ns, took_ns = self.last_ns, self.took_ns
        if self._still:  # since some moment after the reading before the change
            began_ns, took_ns = self._before_ns, took_ns + began_ns - self._before_ns
        # Hidden may be the power before the edge; of a slow counter, the most that it has shown lately.
        hidden_w = self.power_w if self._peak is None else max(self.power_w, self._peak.watts)
        return self.published_j, self.true_j + self.lag_j, hidden_w, began_ns, took_ns

    @property
    def stands_still(self) -> bool:
        """Whether the counter is read, but has not changed for much longer than its updates take."""
        stuck = self.gap_since_ns is not None and "stuck" in self.flags
        return stuck or ("silent" in self.flags and self.blind_s > _STUCK_AFTER_S)

    def at(self, now_ns: int) -> float:
        """Joules up to `now_ns`; never less than in an earlier call."""
        if now_ns >= self.last_ns:
            power_w = 0.0 if self._still else self.power_w
            extrapolated = self.true_j + self.lag_j + power_w * ((now_ns - self.last_ns) * S_PER_NS)
            if extrapolated > self.published_j:
                if self.gap_since_ns is not None:
                    self.filled_j += extrapolated - self.published_j
                self.published_j = extrapolated
        elif self.true_j + self.lag_j > self.published_j:
            self.published_j = self.true_j + self.lag_j
        if self.gap_since_ns is not None and now_ns > self.gap_since_ns:
            self.gap_s = self._gap_s_before + (now_ns - self.gap_since_ns) * S_PER_NS
            if not self._power_known:
                self.blind_s = max(self.blind_s, self.gap_s)
        return self.published_j

    def _observe_first(self, now_ns: int, raw: float) -> None:
        power = not self._is_counter
        if power and not 0 <= raw <= self._most_w:
            self._open_gap(now_ns)
            return
        self._last_raw = raw
        self.last_ns = now_ns
        self._note_first(now_ns)
        if power:
            self._know_power()
        # The least power of the device, until a second reading of the counter gives its power.
        self.power_w = raw if power else self.sensor.power_bounds_w[0]
        if self.gap_since_ns is not None:
            self._unfilled_s = max(0, now_ns - self.gap_since_ns) * S_PER_NS
            self.gap_s, self.gap_since_ns = self._gap_s_before + self._unfilled_s, None
            if power:
                self._fill_first_gap()

    def _fill_first_gap(self) -> None:
        """Fill the gap before the first reading, as soon as a power is known."""
        joules, self._unfilled_s = self.power_w * self._unfilled_s, 0.0
        self.true_j += joules
        self._anchor_j += joules
        self.filled_j += joules

    def _observe_power(self, now_ns: int, watts: float, before_w: float) -> None:
        if not 0 <= watts <= self._most_w:
            self._open_gap(now_ns)
            return
        elapsed_s = (now_ns - self.last_ns) * S_PER_NS
        joules = (before_w + watts) / 2 * elapsed_s
        self._count(now_ns, watts, self.true_j + joules)
        self.power_w = watts
        if self.gap_since_ns is not None:
            self.gap_s = self._gap_s_before + (now_ns - self.gap_since_ns) * S_PER_NS
            self.filled_j = self._filled_before_gap_j + joules
            self.gap_since_ns = None

    def _observe_counter(self, now_ns: int, raw: float, last_raw: float) -> None:
        elapsed_s = (now_ns - self.last_ns) * S_PER_NS
        # The common cases come first, because this runs at both edges of every stage.
        if raw == last_raw:
            if elapsed_s > self._renewal_s:
                self._observe_unchanged(now_ns, raw, elapsed_s)
            return
        if raw > last_raw and self.gap_since_ns is None and elapsed_s < self._sure_s:
            gained = (raw - last_raw) * self._unit_j
            if gained <= self._most_w * (elapsed_s + self._slack_s + self.took_ns * S_PER_NS):
                self._accept(now_ns, raw, gained)
                return
        joules, event = self._difference(last_raw, raw, elapsed_s)
        if joules is None:
            self._set_aside(now_ns, raw)
            return
        self._accept_after_doubt(now_ns, raw, joules)
        if event:
            self.flag(event, now_ns)
            self.ambiguous_j += max(0.0, self._most_w * elapsed_s - joules)
        else:
            self._note_lost_wraps(now_ns, joules, elapsed_s)

    def _accept_after_doubt(self, now_ns: int, raw: float, joules: float) -> None:
        self._suspect = None
        self._accept(now_ns, raw, joules)
        self._close_gap_exactly()

    def _difference(self, old: float, new: float, elapsed_s: float) -> tuple[float | None, str | None]:
        """Joules between two readings, None if implausible, and the flag to raise, if any."""
        unit, wrap = self._unit_j, self.sensor.wrap
        if new >= old:
            joules = (new - old) * unit
            return (joules, None) if self._plausible(joules, elapsed_s) else (None, None)
        if wrap is not None:
            joules = (new - old + wrap) * unit
            if self._plausible(joules, elapsed_s):
                return joules, None
        joules = new * unit
        was_reset = new <= old * (1 - _LEAST_RESET) and self._plausible(joules, elapsed_s)
        return (joules, "reset") if was_reset else (None, None)

    def _plausible(self, joules: float, elapsed_s: float) -> bool:
        """Whether the device can have spent these joules between two readings that began `elapsed_s` apart.

        The second reading may be of any moment until it ended, and each counter value is up to one period old.
        """
        longest_s = elapsed_s + self.took_ns * S_PER_NS + self._slack_s
        return 0 <= joules <= self._most_w * longest_s

    def _set_aside(self, now_ns: int, raw: float) -> None:
        self.flag("implausible", now_ns)
        if self._suspect is not None:
            since_ns, since_raw = self._suspect
            joules, _ = self._difference(since_raw, raw, (now_ns - since_ns) * S_PER_NS)
            if joules is not None:
                # The counter has jumped: the time up to the jump stays filled, and counting continues from here.
                # It may have been late before, so that the device has drawn what it rose by.
                filled_j = self.power_w * (since_ns - self.last_ns) * S_PER_NS
                rise_j = (since_raw - self._last_raw) * self._unit_j if self._last_raw is not None else 0.0
                if filled_j < rise_j <= self._most_w * _STUCK_AFTER_S:
                    self.ambiguous_j += rise_j - filled_j
                self._count(since_ns, since_raw, self.true_j + filled_j)
                self._suspect = None
                (self._anchor_ns, _), self._anchor_j = self._shown(since_ns), self.true_j
                self._accept(now_ns, raw, joules)
                if self.gap_since_ns is not None:
                    self.gap_s = self._gap_s_before + (since_ns - self.gap_since_ns) * S_PER_NS
                    self.gap_since_ns = None
                return
        self._suspect = (now_ns, raw)
        self._open_gap(now_ns)

    def _observe_unchanged(self, now_ns: int, raw: float, elapsed_s: float) -> None:
        """Enter that the counter, which should have been updated, has not changed since `last_ns`.

        Only a device that may rest has spent nothing then. Of another one, the joules since the last change are
        not known, and are not counted until they show. Beyond `_STUCK_AFTER_S` the counter is stuck: the time
        since the last change becomes a gap, filled with the power before it. A counter that has never changed is
        not believed at all.
        """
        if self.sensor.device.may_rest:
            self._accept_after_doubt(now_ns, raw, 0.0)
            self._note_lost_wraps(now_ns, 0.0, elapsed_s)
            return
        self._suspect = None
        if not self._power_known:
            if elapsed_s > _SILENT_AFTER_S:
                self.blind_s = max(self.blind_s, elapsed_s)
                self.flag("silent", now_ns)
        elif elapsed_s > _STUCK_AFTER_S:
            if self._slow is not None:
                self._follow(self.last_ns)
            elif self._anchor_ns < self.last_ns:
                self._renew_power(self.last_ns, self.last_ns)
            self.flag("stuck", now_ns)
            self._open_gap(now_ns)
        else:
            self._still = True

    def _accept(self, now_ns: int, raw: float, joules: float) -> None:
        if not self._power_known and raw != self._last_raw:
            self._know_power()
        if self._peak is not None:
            self._peak.note(now_ns, joules, now_ns - self.last_ns, self.sensor.update_period_s)
        self._count(now_ns, raw, self.true_j + joules)
        if self._slow is not None:
            self._follow(now_ns)
        elif now_ns - self._anchor_ns >= self._power_window_ns:
            self._renew_power(now_ns, now_ns)

    def _follow(self, now_ns: int) -> None:
        """Estimate what a slow counter does not show yet, less what it did not show at the first reading."""
        shown_ns, unsure_ns = self._shown(now_ns)
        if shown_ns - self._anchor_ns >= max(self._power_window_ns, 2 * unsure_ns):
            self._renew_power(now_ns, shown_ns)
        if self._first_lag_j is not None:
            self.lag_j = self._hidden_j(now_ns, shown_ns) - self._first_lag_j

    def _shown(self, now_ns: int) -> tuple[int, int]:
        """The moment up to which the reading at `now_ns` has what was drawn, and how far that may be off."""
        return (now_ns, 0) if self._slow is None else self._slow.shown(now_ns, self.took_ns)

    def _note_first(self, now_ns: int) -> None:
        """Let the power be that since the first reading."""
        shown_ns, _ = self._shown(now_ns)
        self._first_ns, self._first_shown_ns, self._anchor_ns = now_ns, shown_ns, shown_ns

    def _hidden_j(self, now_ns: int, shown_ns: int) -> float:
        """What was drawn between these moments: a slow counter does not show it yet."""
        return self.power_w * ((now_ns - shown_ns) * S_PER_NS)

    def _renew_power(self, now_ns: int, shown_ns: int) -> None:
        """Let the power be that since the anchor, whose joules have what the counter did not show yet."""
        self.power_w = (self.true_j - self._anchor_j) / ((shown_ns - self._anchor_ns) * S_PER_NS)
        if self._slow is not None:
            self.power_w = min(self._most_w, max(0.0, self.power_w))
        if self._first_lag_j is None:
            self._first_lag_j = self._hidden_j(self._first_ns, self._first_shown_ns)
        self._anchor_ns, self._anchor_j = now_ns, self.true_j + self._hidden_j(now_ns, shown_ns)
        if self._unfilled_s and self.power_w > 0:
            self._fill_first_gap()

    def _know_power(self) -> None:
        self._power_known = True
        self.blind_s = 0.0
        self.flags.pop("silent", None)

    def _count(self, now_ns: int, raw: float, true_j: float) -> None:
        """Let a reading be the last one, with the joules up to it."""
        self._next = now_ns, raw, true_j
        self._before_ns = self.last_ns
        self.last_ns, self._last_raw, self.true_j = now_ns, raw, true_j
        self._still = False
        self._next = None

    def _close_gap_exactly(self) -> None:
        if self.gap_since_ns is not None:
            self.gap_s, self.filled_j = self._gap_s_before, self._filled_before_gap_j
            self.gap_since_ns = None

    def _note_lost_wraps(self, now_ns: int, joules: float, elapsed_s: float) -> None:
        """Count the wraps that may be lost, after a time in which the counter may have wrapped more than once."""
        if self.sensor.wrap is None:
            return
        range_j = self.sensor.wrap * self._unit_j
        lost_wraps = int((self._most_w * elapsed_s - joules) / range_j)
        if lost_wraps > 0:
            self.ambiguous_j += lost_wraps * range_j
            self.flag("ambiguous", now_ns)

    def flag(self, flag: str, now_ns: int) -> None:
        """Record the time of a kind of fault."""
        self.flags[flag] = now_ns

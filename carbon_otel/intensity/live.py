"""The intensity of the present interval, for a measurement that follows its grid.

A thread of its own asks the provider. The engine computes grams whenever it enters joules, at each tick and at
each edge of a stage, so the emissions are the sum over the intervals, to one tick. Until there is a value, and
where the provider fails, the intensity is that of the table.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import datetime, timedelta, timezone
from typing import Final

from carbon_otel.carbon.grid import EmissionFactor
from carbon_otel.carbon.intensity import WORLD, Intensity
from carbon_otel.clock import monotonic, wall
from carbon_otel.guard import log_fault, log_once
from carbon_otel.intensity.pricing import require_footprint
from carbon_otel.intensity.provider import Provider
from carbon_otel.intensity.series import series, within
from carbon_otel.intensity.service import Unavailable
from carbon_otel.provenance import Band
from carbon_otel.units import J_PER_KWH

_LOOK_EVERY_S: Final = 60.0
_BEFORE: Final = timedelta(hours=3)
_AHEAD: Final = timedelta(hours=6)
_STALE_STEPS: Final = 2
_MOMENT: Final = timedelta(seconds=1)


class LiveFactor(EmissionFactor):
    """An emission factor whose intensity a `Follower` replaces; all others only read it."""

    def __init__(self, fallback: EmissionFactor) -> None:
        super().__init__(*(getattr(fallback, each.name) for each in fields(fallback)))
        self._table = fallback.intensity
        self._reason = "no value yet"
        self._table_s = self._live_s = 0.0
        self._since_s = monotonic()
        self._began = datetime.fromtimestamp(wall(), timezone.utc)
        self._live: Intensity | None = None

    def follow(self, value: Intensity | None, reason: str = "") -> None:
        """Use this intensity from now on; None, with the reason, for that of the table."""
        now_s = monotonic()
        if self.intensity is self._table:
            self._table_s += now_s - self._since_s
        else:
            self._live_s += now_s - self._since_s
        self._since_s = now_s
        if value is None:
            self._reason = reason
        else:
            # The provider may name the zone in another way than the tables, which are asked for it too.
            value = self._live = replace(value, zone=self._table.zone, name=self._table.name)
        self.intensity = value or self._table  # one step: a reader has the old value or the new one

    def intensity_of(self, joules: float, grams: float) -> Intensity:
        """The mean intensity behind grams that this factor has made of joules since the measurement began.

        Its source names the share of the time of the process for which the table was used, with the reason.
        """
        live, kwh = self._live, joules / J_PER_KWH * self.pue
        if live is None:
            return replace(self._table, source=f"{self._table.source}; {self._reason}")
        last_s = monotonic() - self._since_s
        table_s = self._table_s + (last_s if self.intensity is self._table else 0.0)
        share = table_s / max(table_s, self._table_s + self._live_s + last_s, 1e-9)
        source, low, high = live.source, live.band.low, live.band.high
        if share > 0:
            other = "" if self._table.signal == live.signal else f", which is {self._table.signal}"
            source += f"; for {share:.1%} of the time {self._table.source}{other}: {self._reason}"
            low, high = min(low, self._table.band.low), max(high, self._table.band.high)
        return replace(
            live,
            g_per_kwh=max(0.0, grams) / kwh if kwh > 0 else live.g_per_kwh,
            start=min(self._began, live.start),
            source=source,
            band=Band(low, high, live.band.source, live.band.coverage),
        )


class Follower:
    """A thread that keeps the intensity of a factor that of the present interval."""

    def __init__(
        self,
        factor: LiveFactor,
        found: Callable[[], Provider],
        zone: str,
        now: Callable[[], datetime] = lambda: datetime.fromtimestamp(wall(), timezone.utc),
    ) -> None:
        """`found` gives the provider; it is called in the thread, since it may read files."""
        self._factor = factor
        self._found = found
        self._zone = zone
        self._now = now
        self._provider: Provider | None = None
        self._over = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name="carbon_otel intensity", daemon=True).start()

    def stop(self) -> None:
        """End the thread; a request that is under way is not waited for."""
        self._over.set()

    def look(self) -> float:
        """Use the value of the present interval; the seconds until the next look."""
        try:
            value = self._present()
        except (Unavailable, ValueError) as error:
            self._fall_back(str(error))
            return _LOOK_EVERY_S
        self._factor.follow(value)
        left_s = (value.end - self._now()).total_seconds()
        return min(max(left_s, 1.0), _LOOK_EVERY_S)

    def _run(self) -> None:
        wait_s = 0.0
        while not self._over.wait(wait_s):
            try:
                wait_s = self.look()
            except Exception as fault:  # noqa: BLE001 - a provider of another package may raise anything
                log_fault("looking up the intensity of the grid", fault)
                self._fall_back(f"{type(fault).__name__} in the provider")
                wait_s = _LOOK_EVERY_S

    def _present(self) -> Intensity:
        if self._provider is None:
            if self._zone == WORLD:
                raise ValueError("no zone is set")
            self._provider = self._found()
            require_footprint(self._provider.signal)
        now = self._now()
        values = [*self._provider.history(self._zone, now - _BEFORE, now + _MOMENT)]
        with contextlib.suppress(Unavailable):  # it has none, or none now
            values += self._provider.forecast(self._zone, _AHEAD)
        ordered = series(values)
        for value, _ in within(ordered, now, now + _MOMENT):
            return value
        past = [value for value in ordered if value.end <= now]
        if not past:
            raise Unavailable(f"{self._provider.name} has no value of {self._zone} for now")
        last = past[-1]
        if now - last.end > _STALE_STEPS * (last.end - last.start):
            raise Unavailable(f"{self._provider.name} is late: its last value ended at {last.end:%H:%M} UTC")
        return last

    def _fall_back(self, reason: str) -> None:
        self._factor.follow(None, reason)
        log_once("the intensity of the grid is that of the table: %s", reason, about=reason.partition(";")[0])

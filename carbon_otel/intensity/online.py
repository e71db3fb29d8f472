"""A provider made of a service: asks it within bounds, keeps its answers, and checks its values."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Final, NamedTuple, get_args

from carbon_otel.carbon.intensity import Intensity, Quality, Signal
from carbon_otel.clock import wall
from carbon_otel.intensity import http
from carbon_otel.intensity.cache import Cache
from carbon_otel.intensity.series import series, step_of, within
from carbon_otel.intensity.service import BANDS, Point, Request, Service, Unavailable, WrongShape
from carbon_otel.text import storable

# Values of the last days may be replaced by settled ones.
_SETTLED: Final = timedelta(days=3)
_FRESH: Final = timedelta(minutes=15)
_LATEST: Final = timedelta(hours=3)
_STALE_STEPS: Final = 2


class Value(NamedTuple):
    """A value as it is kept: seconds since the epoch, grams per kilowatt-hour, quality."""

    start_s: float
    end_s: float
    g_per_kwh: float
    quality: Quality


class Online:
    """The intensities of a service. It has the interface of `Provider`."""

    def __init__(
        self,
        service: Service,
        cache: Path,
        *,
        timeout_s: float = http.TIMEOUT_S,
        environ: Mapping[str, str] = os.environ,
        now: Callable[[], datetime] = lambda: datetime.fromtimestamp(wall(), timezone.utc),
    ) -> None:
        self.service = service
        self._cache = Cache(cache, service.name)
        self._timeout_s = timeout_s
        self._environ = environ
        self._now = now

    @property
    def name(self) -> str:
        """The name of the provider."""
        return self.service.name

    @property
    def signal(self) -> Signal:
        """What the values count."""
        return self.service.signal

    def latest(self, zone: str) -> Intensity:
        """The value of the present interval, or the last one, which may have ended two intervals ago."""
        now = self._now()
        values = [value for value in self.history(zone, now - _LATEST, now) if value.start <= now]
        if not values:
            raise Unavailable(f"{self.name} has no value of the last {_LATEST.seconds // 3600} h for {zone}")
        last = values[-1]
        if now - last.end > _STALE_STEPS * (last.end - last.start):
            raise Unavailable(f"{self.name} is late: its last value for {zone} ended at {last.end:%H:%M} UTC")
        return last

    def history(self, zone: str, start: datetime, end: datetime) -> tuple[Intensity, ...]:
        """The series between two times; the values of the last three days may change."""
        theirs, found = self.service.zone(zone), list[Intensity]()
        for begin, until in self._windows(start, min(end, self._now())):
            settled = until < self._now() - _SETTLED
            found += self._kept(theirs, begin, until, None if settled else _FRESH, forecast=False)
        values = series(found)
        return tuple(value for value, _ in within(values, start, end))

    def forecast(self, zone: str, length: timedelta) -> tuple[Intensity, ...]:
        """The series from now on."""
        theirs, now = self.service.zone(zone), self._now()
        begin = datetime.fromtimestamp(now.timestamp() // 1800 * 1800, timezone.utc)
        found = self._kept(theirs, begin, begin + length + timedelta(hours=1), _FRESH, forecast=True)
        return tuple(value for value in series(found) if value.end > now)

    def check(self, zone: str) -> list[str]:
        """Ask the service once for the last hours, and once for a forecast; what differs from the expected shape.

        Nothing is taken from the cache. Raises Unavailable and ValueError.
        """
        theirs, now, notes = self.service.zone(zone), self._now(), []
        for forecast, begin, end in (
            (False, now - timedelta(days=2), now),
            (True, now, now + timedelta(days=1)),
        ):
            kind = "forecast" if forecast else "history"
            points = self._ask(theirs, begin, end, forecast=forecast)
            if points is None:
                notes.append(f"{kind}: the service has none")
                continue
            values, rejected = self._checked(points)
            notes.append(
                f"{kind}: {len(points)} points, {len(values)} with a value"
                + (f", {rejected} implausible" if rejected else "")
                + (f", {values[0].g_per_kwh:g} to {values[-1].g_per_kwh:g} g/kWh" if values else "")
            )
            if not values:
                raise WrongShape(f"the {kind} has no value in {len(points)} points")
        return notes

    def _windows(self, start: datetime, end: datetime) -> Iterator[tuple[datetime, datetime]]:
        """The windows, the same for all processes, that contain the time."""
        length_s = self.service.window.total_seconds()
        begin_s = start.timestamp() // length_s * length_s
        while begin_s < end.timestamp():
            begin = datetime.fromtimestamp(begin_s, timezone.utc)
            yield begin, min(begin + self.service.window, max(end, self._now()))
            begin_s += length_s

    def _kept(
        self, zone: str, start: datetime, end: datetime, fresh: timedelta | None, *, forecast: bool
    ) -> list[Intensity]:
        key: tuple[str, ...] = ("history", zone, f"{start:%Y%m%dT%H%M}")
        if forecast:
            key = ("forecast", zone, f"{start:%Y%m%dT%H%M}", f"{end:%Y%m%dT%H%M}")
        known = self._known(key, fresh, end, zone)
        if known is not None:
            return known
        with self._cache.alone():
            known = self._known(key, fresh, end, zone)  # another process may just have asked
            if known is not None:
                return known
            pause_s, reason = self._cache.pause()
            if pause_s > 0:
                raise Unavailable(f"{reason}; not asked again for {pause_s:.0f} s")
            try:
                points = self._ask(zone, start, end, forecast=forecast)
            except Unavailable as fault:
                self._cache.fail(str(fault), fault.retry_after_s)
                raise
            if points is None:
                raise Unavailable(f"{self.name} has no forecast")
            self._cache.succeed()
            values, rejected = self._checked(points)
            if rejected and not values:
                low, high = self.service.plausible
                raise Unavailable(
                    f"{self.name}: all {rejected} values are below {low:g} or above {high:g} g/kWh"
                )
            content = {"asked": self._now().timestamp(), "until": end.timestamp(), "values": values}
            self._cache.put(content, *key)
            return self._typed(values, zone, self._now())

    def _known(
        self, key: tuple[str, ...], fresh: timedelta | None, end: datetime, zone: str
    ) -> list[Intensity] | None:
        """The values in the cache, unless they are older than `fresh` or do not reach the end."""
        content = self._cache.get(*key)
        if content is None:
            return None
        try:
            asked = datetime.fromtimestamp(content["asked"], timezone.utc)
            values = [Value(float(a), float(b), float(g), quality) for a, b, g, quality in content["values"]]
            known = self._typed(values, zone, asked)
            until = float(content["until"])
        except (KeyError, TypeError, ValueError, OverflowError):
            return None
        age = self._now() - asked
        if age < timedelta(0) or (fresh is not None and age > fresh):
            return None
        if fresh is None:
            return known if until >= end.timestamp() and asked - _SETTLED > end else None
        return known

    def _ask(self, zone: str, start: datetime, end: datetime, *, forecast: bool) -> list[Point] | None:
        """The points of the service; None if it has no forecast. Raises Unavailable, without a key in it."""
        service = self.service
        missing = [name for name in service.keys if not self._environ.get(name, "").strip()]
        if missing:
            raise Unavailable(f"{service.name} wants a key: set {' and '.join(missing)}")
        keys = {name: self._environ[name].strip() for name in service.keys}
        secrets = list(keys.values())
        try:
            login = service.login(keys)
            session = None if login is None else self._get(login)
            if isinstance(session, dict):
                secrets += [value for value in session.values() if isinstance(value, str) and value]
            call = service.forecast if forecast else service.history
            request = call(zone, start, end, keys, session)
            return (
                None if request is None else list(service.points(self._get(request), zone, forecast=forecast))
            )
        except Unavailable as error:
            fault = type(error)(_without(str(error), secrets), error.retry_after_s)
        raise fault

    def _get(self, request: Request) -> Any:
        return http.ask(self.service.base, request, is_json=self.service.is_json, timeout_s=self._timeout_s)

    def _checked(self, points: list[Point]) -> tuple[list[Value], int]:
        """The points with plausible values, by time, and the number of the others."""
        step = step_of((point.start for point in points), self.service.step)
        low, high = self.service.plausible
        values, rejected = [], 0
        for point in sorted(points, key=lambda point: point.start):
            if point.g_per_kwh is None:
                continue
            if not low <= point.g_per_kwh <= high:
                rejected += 1
                continue
            end = point.end or point.start + step
            values.append(Value(point.start.timestamp(), end.timestamp(), point.g_per_kwh, point.quality))
        return values, rejected

    def _typed(self, values: Sequence[Value], zone: str, asked: datetime) -> list[Intensity]:
        if any(value.quality not in get_args(Quality) for value in values):
            raise ValueError("the kept values have another quality")
        service = self.service
        return [
            Intensity(
                zone=zone,
                name=zone,
                g_per_kwh=value.g_per_kwh,
                start=datetime.fromtimestamp(value.start_s, timezone.utc),
                end=datetime.fromtimestamp(value.end_s, timezone.utc),
                band=BANDS[value.quality],
                source=service.source,
                licence=service.licence,
                signal=service.signal,
                quality=value.quality,
                retrieved_at=asked,
            )
            for value in values
        ]


def _without(text: str, secrets: Iterable[str]) -> str:
    """The text without the keys, as a server may repeat one in its answer."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return storable(text)

"""What the code knows of one service: its requests, and how its answers become points.

`online.Online` does the rest: network, cache, checks and types.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, ClassVar, Final, NamedTuple

from carbon_otel.carbon.intensity import Quality, Signal
from carbon_otel.intensity.series import instant
from carbon_otel.provenance import Band

BANDS: Final[Mapping[Quality, Band]] = {
    "measured": Band(0.9, 1.1, "one hour of a grid as its operator publishes it", "estimate"),
    "estimated": Band(0.8, 1.2, "one hour of a grid from its mix or a model", "estimate"),
    "forecast": Band(0.8, 1.2, "a forecast of one hour up to two days ahead", "estimate"),
}


class Unavailable(Exception):
    """A provider has no values; the message has the reason, and no key.

    `retry_after_s` is the pause that the service has asked for.
    """

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class WrongShape(Unavailable):
    """The answer is not of the shape that the code was written for."""


class Point(NamedTuple):
    """One value of an answer, in grams per kilowatt-hour; None if the service has none for its interval.

    Without an `end`, the interval is as long as the smallest distance between the points of the answer.
    """

    start: datetime
    g_per_kwh: float | None
    quality: Quality = "measured"
    end: datetime | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """A request. What is in `secret_query` and in `headers` is in no text about the request."""

    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    secret_query: Mapping[str, str] = field(default_factory=dict, repr=False)


class Service(ABC):
    """A service on the internet.

    Attributes:
        name: as a user writes it.
        base: address, with the path that all requests share.
        signal: what its values count.
        source, licence: of the values.
        keys: environment variables with the user's credentials.
        step: length of an interval if an answer has one point only.
        window: length of what one request asks for.
        plausible: grams per kilowatt-hour; values beyond are missing data in disguise.
    """

    name: ClassVar[str]
    base: str
    signal: ClassVar[Signal]
    source: ClassVar[str]
    licence: ClassVar[str]
    keys: ClassVar[tuple[str, ...]] = ()
    step: ClassVar[timedelta] = timedelta(hours=1)
    window: ClassVar[timedelta] = timedelta(days=7)
    plausible: ClassVar[tuple[float, float]] = (5.0, 1500.0)
    is_json: ClassVar[bool] = True

    @abstractmethod
    def zone(self, zone: str) -> str:
        """The zone as the service names it. Raises ValueError for one that it does not have."""

    def login(self, keys: Mapping[str, str]) -> Request | None:
        """A request whose answer is given to the others; None if the keys are enough."""
        return None

    @abstractmethod
    def history(
        self, zone: str, start: datetime, end: datetime, keys: Mapping[str, str], session: Any
    ) -> Request:
        """The request for the values between two times; `session` is the answer to the login."""

    def forecast(
        self, zone: str, start: datetime, end: datetime, keys: Mapping[str, str], session: Any
    ) -> Request | None:
        """The request for a forecast; None if the service has none."""
        return None

    @abstractmethod
    def points(self, answer: Any, zone: str, *, forecast: bool) -> Iterable[Point]:
        """The points of an answer. Raises WrongShape."""


def part(answer: Any, name: str, kind: type | tuple[type, ...], where: str = "the answer") -> Any:
    """A part of an object of JSON. Raises WrongShape if it is missing or of another type."""
    if not isinstance(answer, dict):
        raise WrongShape(f"{where} is {_kind(answer)}, not an object with {name!r}")
    if name not in answer:
        found = ", ".join(sorted(map(str, answer))[:8]) or "nothing"
        raise WrongShape(f"{where} has no {name!r}, but {found}")
    value = answer[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise WrongShape(f"{name!r} of {where} is {_kind(value)}")
    return value


def amount(value: Any, where: str) -> float | None:
    """A number, or None for null. Raises WrongShape."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise WrongShape(f"{where} is {_kind(value)}, not a number")
    return float(value)


def moment(value: Any, where: str, *, naive: bool = False) -> datetime:
    """A time of ISO 8601 in UTC. Raises WrongShape."""
    try:
        return instant(value, naive=naive)
    except (ValueError, TypeError, AttributeError, OverflowError):
        raise WrongShape(f"{where} is {_kind(value)}, not a time") from None


def _kind(value: Any) -> str:
    return f"{type(value).__name__} {str(value)[:40]!r}" if value is not None else "null"

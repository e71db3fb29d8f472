"""Some forty countries of Europe, by Energy-Charts of Fraunhofer ISE: quarter-hours, and a forecast of a day."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any, Final

from carbon_otel.carbon.intensity import Signal
from carbon_otel.intensity.service import Point, Request, Service, WrongShape, amount, part

_TIME: Final = "%Y-%m-%dT%H:%MZ"


class EnergyCharts(Service):
    """https://api.energy-charts.info: from the mix of the zone's plants, by lifecycle factors."""

    name = "energy-charts"
    signal = Signal(scope="lifecycle", basis="production")
    source = "Energy-Charts, Fraunhofer ISE"
    licence = "CC BY 4.0"
    step = timedelta(minutes=15)

    def __init__(self, base: str = "https://api.energy-charts.info") -> None:
        self.base = base

    def zone(self, zone: str) -> str:
        if len(zone) != 2 or not zone.isalpha():
            raise ValueError(f"the provider energy-charts has countries, such as DE, not {zone!r}")
        return zone.upper()

    def history(
        self, zone: str, start: datetime, end: datetime, keys: Mapping[str, str], session: Any
    ) -> Request:
        country = "uk" if zone == "GB" else zone.lower()
        return Request("/co2eq", {"country": country, "start": f"{start:{_TIME}}", "end": f"{end:{_TIME}}"})

    forecast = history

    def points(self, answer: Any, zone: str, *, forecast: bool) -> Iterator[Point]:
        times = part(answer, "unix_seconds", list)
        measured = part(answer, "co2eq", list)
        expected = answer.get("co2eq_forecast") or [None] * len(times)
        if not len(times) == len(measured) == len(expected):
            raise WrongShape(f"{len(times)} times have {len(measured)} values and {len(expected)} forecasts")
        for at, value, other in zip(times, measured, expected, strict=True):
            seconds = amount(at, "a value of `unix_seconds`")
            if seconds is None:
                raise WrongShape("a value of `unix_seconds` is null")
            grams = amount(value, "a value of `co2eq`")
            yield Point(
                datetime.fromtimestamp(seconds, timezone.utc),
                amount(other, "a value of `co2eq_forecast`") if grams is None else grams,
                "forecast" if grams is None else "estimated",
            )

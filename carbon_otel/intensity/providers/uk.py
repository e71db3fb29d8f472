"""Great Britain, by the Carbon Intensity API of its system operator: half-hours, and a forecast of 48 h."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from carbon_otel.carbon.intensity import Signal
from carbon_otel.intensity.service import Point, Request, Service, amount, moment, part

_TIME: Final = "%Y-%m-%dT%H:%MZ"


class UnitedKingdom(Service):
    """https://carbonintensity.org.uk: measured values where they are settled, forecasts before."""

    name = "uk"
    signal = Signal(scope="direct", basis="consumption")
    source = "NESO Carbon Intensity API"
    licence = "CC BY 4.0"
    step = timedelta(minutes=30)

    def __init__(self, base: str = "https://api.carbonintensity.org.uk") -> None:
        self.base = base

    def zone(self, zone: str) -> str:
        if zone.upper() not in ("GB", "UK"):
            raise ValueError(f"the provider uk has the zone GB, not {zone!r}")
        return "GB"

    def history(
        self, zone: str, start: datetime, end: datetime, keys: Mapping[str, str], session: Any
    ) -> Request:
        return Request(f"/intensity/{start:{_TIME}}/{end:{_TIME}}")

    def forecast(
        self, zone: str, start: datetime, end: datetime, keys: Mapping[str, str], session: Any
    ) -> Request:
        return Request(f"/intensity/{start:{_TIME}}/fw48h")

    def points(self, answer: Any, zone: str, *, forecast: bool) -> Iterator[Point]:
        for row in part(answer, "data", list):
            values = part(row, "intensity", dict, "a row of `data`")
            actual = amount(values.get("actual"), "`actual`")
            forecast_g = amount(values.get("forecast"), "`forecast`")
            yield Point(
                moment(row.get("from"), "`from`"),
                forecast_g if actual is None else actual,
                "forecast" if actual is None else "measured",
                moment(row.get("to"), "`to`"),
            )

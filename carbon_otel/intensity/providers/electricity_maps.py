"""Most zones of the world, by Electricity Maps v4, with a key: hours, and a forecast where the plan has one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from carbon_otel.carbon.intensity import Signal
from carbon_otel.intensity.service import Point, Request, Service, WrongShape, amount, moment, part

_KEY: Final = "ELECTRICITYMAPS_TOKEN"
_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"


class ElectricityMaps(Service):
    """https://api.electricitymaps.com: lifecycle, consumption traced over borders; a free key has one zone."""

    name = "electricitymaps"
    signal = Signal(scope="lifecycle", basis="consumption")
    source = "Electricity Maps API v4"
    licence = "proprietary; by the terms of your key"
    keys = (_KEY,)

    def __init__(self, base: str = "https://api.electricitymaps.com/v4") -> None:
        self.base = base

    def zone(self, zone: str) -> str:
        if not zone.strip():
            raise ValueError("write a zone of Electricity Maps, such as DE or US-CAL-CISO")
        return zone.strip().upper()

    def history(
        self, zone: str, start: datetime, end: datetime, keys: Mapping[str, str], session: Any
    ) -> Request:
        times = {"start": f"{start:{_TIME}}", "end": f"{end:{_TIME}}", "temporalGranularity": "hourly"}
        return self._request("past-range", zone, times, keys)

    def forecast(
        self, zone: str, start: datetime, end: datetime, keys: Mapping[str, str], session: Any
    ) -> Request:
        hours = next((h for h in (6, 24, 48) if end - start <= timedelta(hours=h)), 72)
        return self._request("forecast", zone, {"horizonHours": str(hours)}, keys)

    def _request(self, what: str, zone: str, query: Mapping[str, str], keys: Mapping[str, str]) -> Request:
        # Without the last one, an unknown zone becomes that of the caller's address.
        query = {"zone": zone, **query, "emissionFactorType": "lifecycle", "disableCallerLookup": "true"}
        return Request(f"/carbon-intensity/{what}", query, headers={"auth-token": keys[_KEY]})

    def points(self, answer: Any, zone: str, *, forecast: bool) -> Iterator[Point]:
        theirs = part(answer, "zone", str)
        if theirs.upper() != zone:
            raise WrongShape(f"the answer is for {theirs}, not for {zone}")
        names = ("forecast",) if forecast else ("data", "history")
        rows = next((answer[name] for name in names if name in answer), None)
        if rows is None:
            rows = part(answer, names[0], list)
        for row in rows:
            at = part(row, "datetime", str, "a value")
            factors = row.get("emissionFactorType", "lifecycle")
            if factors != "lifecycle":
                raise WrongShape(f"a value counts {factors} emissions, not those of the lifecycle")
            grams = amount(row.get("carbonIntensity", row.get("value")), "`carbonIntensity`")
            quality = "estimated" if row.get("isEstimated") else "measured"
            yield Point(moment(at, "`datetime`"), grams, "forecast" if forecast else quality)  # type: ignore[arg-type]

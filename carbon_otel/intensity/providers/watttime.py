"""Marginal intensities, by WattTime v3, with an account: they rank hours, and are in no footprint."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from carbon_otel.carbon.intensity import Signal
from carbon_otel.intensity.service import Point, Request, Service, WrongShape, amount, moment, part

_USER: Final = "WATTTIME_USER"
_PASSWORD: Final = "WATTTIME_PASSWORD"
_G_PER_KWH: Final = 0.45359237  # of a pound per megawatt-hour
_UNITS: Final = "lbs_co2_per_mwh"


class WattTime(Service):
    """https://api.watttime.org: the signal co2_moer, by five minutes; the zone is a region of WattTime."""

    name = "watttime"
    signal = Signal(kind="marginal", scope="direct", basis="production")
    source = "WattTime v3, co2_moer"
    licence = "proprietary; by the terms of your account"
    keys = (_USER, _PASSWORD)
    step = timedelta(minutes=5)
    # The plant at the margin may be wind that would be thrown away.
    plausible = (0.0, 2500.0)

    def __init__(self, base: str = "https://api.watttime.org") -> None:
        self.base = base

    def zone(self, zone: str) -> str:
        if "_" not in zone and len(zone) <= 2:
            raise ValueError(f"write a region of WattTime, such as CAISO_NORTH, not {zone!r}")
        return zone.upper()

    def login(self, keys: Mapping[str, str]) -> Request:
        pair = base64.b64encode(f"{keys[_USER]}:{keys[_PASSWORD]}".encode()).decode()
        return Request("/login", headers={"Authorization": f"Basic {pair}"})

    def history(
        self, zone: str, start: datetime, end: datetime, keys: Mapping[str, str], session: Any
    ) -> Request:
        times = {"start": start.isoformat(), "end": end.isoformat()}
        return self._request("historical", zone, times, session)

    def forecast(
        self, zone: str, start: datetime, end: datetime, keys: Mapping[str, str], session: Any
    ) -> Request:
        hours = max(1, min(72, round((end - start) / timedelta(hours=1))))
        return self._request("forecast", zone, {"horizon_hours": str(hours)}, session)

    def _request(self, what: str, zone: str, query: Mapping[str, str], session: Any) -> Request:
        token = part(session, "token", str, "the answer to the login")
        return Request(
            f"/v3/{what}",
            {"region": zone, "signal_type": "co2_moer", **query},
            headers={"Authorization": f"Bearer {token}"},
        )

    def points(self, answer: Any, zone: str, *, forecast: bool) -> Iterator[Point]:
        meta = part(answer, "meta", dict)
        units, region = part(meta, "units", str, "`meta`"), part(meta, "region", str, "`meta`")
        if units != _UNITS:
            raise WrongShape(f"the units are {units}, not {_UNITS}")
        if region.upper() != zone:
            raise WrongShape(f"the answer is for {region}, not for {zone}")
        for row in part(answer, "data", list):
            at = part(row, "point_time", str, "a row of `data`")
            pounds = amount(row.get("value"), "`value`")
            yield Point(
                moment(at, "`point_time`"),
                None if pounds is None else pounds * _G_PER_KWH,
                "forecast" if forecast else "estimated",
            )

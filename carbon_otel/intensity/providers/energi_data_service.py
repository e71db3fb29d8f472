"""Denmark's two zones, by Energi Data Service of Energinet: every five minutes, and a forecast of a day."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from carbon_otel.carbon.intensity import Signal
from carbon_otel.intensity.service import Point, Request, Service, WrongShape, amount, moment, part

_ZONES: Final = ("DK1", "DK2")
# `start` may be read as Danish time.
_MARGIN: Final = timedelta(hours=2)


class EnergiDataService(Service):
    """https://www.energidataservice.dk: the data sets CO2Emis and CO2EmisProg."""

    name = "energidataservice"
    signal = Signal(scope="direct", basis="consumption")
    source = "Energi Data Service, Energinet"
    licence = "open, with attribution"
    step = timedelta(minutes=5)

    def __init__(self, base: str = "https://api.energidataservice.dk") -> None:
        self.base = base

    def zone(self, zone: str) -> str:
        name = zone.upper().removeprefix("DK-")
        if name not in _ZONES:
            raise ValueError(f"the provider energidataservice has the zones DK1 and DK2, not {zone!r}")
        return name

    def history(
        self, zone: str, start: datetime, end: datetime, keys: Mapping[str, str], session: Any
    ) -> Request:
        return self._request("CO2Emis", zone, start, end)

    def forecast(
        self, zone: str, start: datetime, end: datetime, keys: Mapping[str, str], session: Any
    ) -> Request:
        return self._request("CO2EmisProg", zone, start, end)

    def _request(self, dataset: str, zone: str, start: datetime, end: datetime) -> Request:
        return Request(
            f"/dataset/{dataset}",
            {
                "filter": json.dumps({"PriceArea": [zone]}),
                "sort": "Minutes5UTC ASC",
                "start": f"{start - _MARGIN:%Y-%m-%dT%H:%M}",
                "limit": str(int((end - start + 2 * _MARGIN) / self.step)),
            },
        )

    def points(self, answer: Any, zone: str, *, forecast: bool) -> Iterator[Point]:
        for row in part(answer, "records", list):
            area = part(row, "PriceArea", str, "a record")
            if area != zone:
                raise WrongShape(f"a record is of {area}, not of {zone}")
            yield Point(
                moment(row.get("Minutes5UTC"), "`Minutes5UTC`", naive=True),
                amount(row.get("CO2Emission"), "`CO2Emission`"),
                "forecast" if forecast else "measured",
            )

"""France, by eCO2mix of RTE on the portal ODRE: half- or quarter-hours, no forecast."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from carbon_otel.carbon.intensity import Signal
from carbon_otel.intensity.service import Point, Request, Service, amount, moment, part

_TIME: Final = "%Y-%m-%dT%H:%M:%S+00:00"
_LONGEST_PAGE: Final = 100  # a day has 96 quarter-hours


class Rte(Service):
    """https://odre.opendatasoft.com: the data set eco2mix-national-tr, of the last months."""

    name = "rte"
    signal = Signal(scope="direct", basis="production")
    source = "eCO2mix, RTE"
    licence = "Licence Ouverte 2.0"
    step = timedelta(minutes=30)
    window = timedelta(days=1)
    # Hours of wind and nuclear power come near to the default of 5 g.
    plausible = (1.0, 1500.0)

    def __init__(self, base: str = "https://odre.opendatasoft.com/api/explore/v2.1") -> None:
        self.base = base

    def zone(self, zone: str) -> str:
        if zone.upper() != "FR":
            raise ValueError(f"the provider rte has the zone FR, not {zone!r}")
        return "FR"

    def history(
        self, zone: str, start: datetime, end: datetime, keys: Mapping[str, str], session: Any
    ) -> Request:
        first = max(start, end - self.window)
        return Request(
            "/catalog/datasets/eco2mix-national-tr/records",
            {
                "where": f"taux_co2 is not null and date_heure >= date'{first:{_TIME}}' "
                f"and date_heure < date'{end:{_TIME}}'",
                "order_by": "date_heure",
                "limit": str(_LONGEST_PAGE),
            },
        )

    def points(self, answer: Any, zone: str, *, forecast: bool) -> Iterator[Point]:
        for row in part(answer, "results", list):
            at = part(row, "date_heure", str, "a row of `results`")
            grams = amount(row.get("taux_co2"), "`taux_co2`")
            if grams is not None:  # quarter-hours are rows, also where only half-hours have a value
                yield Point(moment(at, "`date_heure`"), grams, "estimated")

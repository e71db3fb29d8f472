"""The United States by balancing authority, by the EIA's Open Data v2, with a key: the hourly mix, a day late."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from carbon_otel.intensity import mix
from carbon_otel.intensity.service import Point, Request, Service, WrongShape, moment, part

_KEY: Final = "EIA_API_KEY"
_HOUR: Final = timedelta(hours=1)
_LONGEST_PAGE: Final = 5000
_FUELS: Final = {
    "COL": "coal", "NG": "gas", "OIL": "oil", "NUC": "nuclear", "WAT": "hydro", "SUN": "solar", "SNB": "solar",
    "WND": "wind", "WNB": "wind", "GEO": "geothermal", "BIO": "biomass",
    "BAT": mix.STORAGE, "PS": mix.STORAGE, "UES": mix.STORAGE, "OES": mix.STORAGE,
}  # fmt: skip


class Eia(Service):
    """https://api.eia.gov/v2: net generation by fuel (electricity/rto/fuel-type-data)."""

    name = "eia"
    signal = mix.SIGNAL
    source = f"U.S. Energy Information Administration, with {mix.SOURCE}"
    licence = "public domain"
    keys = (_KEY,)

    def __init__(self, base: str = "https://api.eia.gov/v2") -> None:
        self.base = base

    def zone(self, zone: str) -> str:
        name = zone.upper().rpartition("-")[2]
        if not 2 < len(name) <= 4 or not name.isalnum():
            raise ValueError(f"write a balancing authority, such as CISO or US-CAL-CISO, not {zone!r}")
        return name

    def history(
        self, zone: str, start: datetime, end: datetime, keys: Mapping[str, str], session: Any
    ) -> Request:
        return Request(
            "/electricity/rto/fuel-type-data/data/",
            {
                "frequency": "hourly",
                "data[0]": "value",
                "facets[respondent][]": zone,
                "start": f"{start:%Y-%m-%dT%H}",
                "end": f"{end + _HOUR:%Y-%m-%dT%H}",
                "length": str(_LONGEST_PAGE),
            },
            secret_query={"api_key": keys[_KEY]},
        )

    def points(self, answer: Any, zone: str, *, forecast: bool) -> Iterator[Point]:
        generated: dict[datetime, dict[str, float]] = {}
        for row in part(part(answer, "response", dict), "data", list, "`response`"):
            respondent = part(row, "respondent", str, "a row of `data`")
            if respondent != zone:
                raise WrongShape(f"a row is of {respondent}, not of {zone}")
            # A period is the end of its hour.
            at = moment(f"{part(row, 'period', str, 'a row')}:00Z", "`period`") - _HOUR
            fuel = _FUELS.get(part(row, "fueltype", str, "a row"), mix.UNKNOWN)
            by_fuel = generated.setdefault(at, {})
            value = row.get("value")
            if value is not None:
                by_fuel[fuel] = by_fuel.get(fuel, 0.0) + _megawatthours(value, row)
        for at, by_fuel in sorted(generated.items()):
            yield Point(at, mix.g_per_kwh(by_fuel), "estimated", at + _HOUR)


def _megawatthours(value: Any, row: Mapping[str, Any]) -> float:
    units = row.get("value-units", "megawatthours")
    if units != "megawatthours":
        raise WrongShape(f"the units are {str(units)[:30]}, not megawatthours")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise WrongShape(f"`value` is {str(value)[:30]!r}, not a number") from None

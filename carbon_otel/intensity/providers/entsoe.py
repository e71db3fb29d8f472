"""Europe, by the transparency platform of ENTSO-E, with a key: the mix of the zone's plants, times our factors."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from carbon_otel.intensity import mix
from carbon_otel.intensity.service import Point, Request, Service, Unavailable, WrongShape, moment

_KEY: Final = "ENTSOE_TOKEN"
_QUARTER: Final = timedelta(minutes=15)
_STEPS: Final = {"PT15M": 1, "PT30M": 2, "PT60M": 4}
_NO_DATA: Final = "999"
# Codes of the zones, as the platform lists them.
_ZONES: Final = {
    "AT": "10YAT-APG------L",
    "BE": "10YBE----------2",
    "CH": "10YCH-SWISSGRIDZ",
    "CZ": "10YCZ-CEPS-----N",
    "DE": "10Y1001A1001A82H",
    "DK1": "10YDK-1--------W",
    "DK2": "10YDK-2--------M",
    "ES": "10YES-REE------0",
    "FI": "10YFI-1--------U",
    "FR": "10YFR-RTE------C",
    "HU": "10YHU-MAVIR----U",
    "NL": "10YNL----------L",
    "PL": "10YPL-AREA-----S",
    "PT": "10YPT-REN------W",
    "RO": "10YRO-TEL------P",
    "SI": "10YSI-ELES-----O",
    "SK": "10YSK-SEPS-----K",
}
# Codes of the kinds of plant; pumped storage (B10) gives back what other plants have made.
_FUELS: Final = {
    "B01": "biomass", "B02": "coal", "B03": "gas", "B04": "gas", "B05": "coal", "B06": "oil", "B07": "oil",
    "B08": "coal", "B09": "geothermal", "B11": "hydro", "B12": "hydro", "B14": "nuclear", "B16": "solar",
    "B18": "wind", "B19": "wind",
}  # fmt: skip
_STORAGE: Final = "B10"


class Entsoe(Service):
    """https://web-api.tp.entsoe.eu: realised generation by type (A75, A16)."""

    name = "entsoe"
    signal = mix.SIGNAL
    source = f"ENTSO-E transparency platform, with {mix.SOURCE}"
    licence = "open, with attribution"
    keys = (_KEY,)
    step = _QUARTER
    is_json = False

    def __init__(self, base: str = "https://web-api.tp.entsoe.eu") -> None:
        self.base = base

    def zone(self, zone: str) -> str:
        name = zone.upper()
        if name not in _ZONES and len(name) != 16:
            known = ", ".join(_ZONES)
            raise ValueError(f"the provider entsoe has {known}, or a code of 16 characters, not {zone!r}")
        return name

    def history(
        self, zone: str, start: datetime, end: datetime, keys: Mapping[str, str], session: Any
    ) -> Request:
        return Request(
            "/api",
            {
                "documentType": "A75",
                "processType": "A16",
                "in_Domain": _ZONES.get(zone, zone),
                "periodStart": f"{start:%Y%m%d%H%M}",
                "periodEnd": f"{end:%Y%m%d%H%M}",
            },
            secret_query={"securityToken": keys[_KEY]},
        )

    def points(self, answer: Any, zone: str, *, forecast: bool) -> Iterator[Point]:
        root = _root(answer)
        kind = _name(root)
        if kind == "Acknowledgement_MarketDocument":
            code = _text(root, "Reason/code")
            if code == _NO_DATA:
                return
            raise Unavailable(
                f"the platform answers with the reason {code}: {_text(root, 'Reason/text')[:80]}"
            )
        if kind != "GL_MarketDocument":
            raise WrongShape(f"the answer is a {kind}, not a GL_MarketDocument")
        generated: dict[str, dict[datetime, float]] = {}
        for series in _all(root, "TimeSeries"):
            if _all(series, "outBiddingZone_Domain.mRID"):
                continue  # pumping: consumption
            plant = _text(series, "MktPSRType/psrType")
            fuel = mix.STORAGE if plant == _STORAGE else _FUELS.get(plant, mix.UNKNOWN)
            sums = generated.setdefault(f"{fuel}/{plant}", {})
            for period in _all(series, "Period"):
                for at, megawatts in _quarters(period):
                    sums[at] = megawatts
        times = sorted({at for values in generated.values() for at in values})
        for at in times:
            complete = all(at in values for values in generated.values())
            megawatts_by_fuel: dict[str, float] = {}
            for key, values in generated.items():
                fuel = key.partition("/")[0]
                megawatts_by_fuel[fuel] = megawatts_by_fuel.get(fuel, 0.0) + values.get(at, 0.0)
            yield Point(
                at, mix.g_per_kwh(megawatts_by_fuel) if complete else None, "estimated", at + _QUARTER
            )


def _quarters(period: ET.Element) -> Iterator[tuple[datetime, float]]:
    """The megawatts of each quarter-hour; a position that is left out repeats the one before (curve type A03)."""
    resolution = _text(period, "resolution")
    if resolution not in _STEPS:
        raise WrongShape(f"a period has the resolution {resolution[:20]!r}")
    length = _STEPS[resolution]
    start = moment(_text(period, "timeInterval/start"), "`timeInterval/start`")
    end = moment(_text(period, "timeInterval/end"), "`timeInterval/end`")
    try:
        by_position = {
            int(_text(point, "position")): float(_text(point, "quantity")) for point in _all(period, "Point")
        }
    except ValueError:
        raise WrongShape("a point has no number") from None
    megawatts: float | None = None
    for position in range(1, round((end - start) / (length * _QUARTER)) + 1):
        megawatts = by_position.get(position, megawatts)
        if megawatts is None:
            continue
        for quarter in range(length):
            yield start + ((position - 1) * length + quarter) * _QUARTER, megawatts


def _root(answer: str) -> ET.Element:
    if "<!DOCTYPE" in answer[:1000] or "<!ENTITY" in answer:  # no document of the platform has one
        raise WrongShape("the answer is a web page instead of XML")
    try:
        return ET.fromstring(answer)
    except ET.ParseError:
        raise WrongShape("the answer is not XML") from None


def _name(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


def _all(element: ET.Element, name: str) -> list[ET.Element]:
    """The children of a name, in whatever namespace: it has the version of the schema."""
    return [child for child in element if _name(child) == name]


def _text(element: ET.Element, path: str) -> str:
    found = [element]
    for name in path.split("/"):
        found = [child for each in found for child in _all(each, name)]
    return (found[0].text or "").strip() if found else ""

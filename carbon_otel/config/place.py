"""The settings of the place: whose grid and whose building the emissions are computed for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from carbon_otel.carbon import grid
from carbon_otel.config.setting import declared, to_boolean, to_number, to_text

_LONGEST_NAME: Final = 1000


def _zone(value: Any) -> str | None:
    return grid.intensity(value).zone if isinstance(value, str) else None


def _region(value: Any) -> str | None:
    from carbon_otel.carbon.regions import region

    return region(value).name if isinstance(value, str) else None


def _provider(value: Any) -> str | None:
    name = to_text(_LONGEST_NAME)(value)
    if name is not None:
        from carbon_otel.intensity.provider import require_known

        require_known(name)
    return name


@dataclass(frozen=True, slots=True)
class PlaceSettings:
    """Where the measured machine is, and who gives its grid."""

    zone: str | None = declared(
        None,
        default="that of the region, else the world average, with a warning",
        sentence="Country, or grid within one, that the emissions are computed with: `FR`, `FRA`, `France`, "
        "`US-CAL-CISO`, `CA-QC`.",
        parse=_zone,
        write=grid.ZONES,
    )
    region: str | None = declared(
        None,
        default="none",
        sentence="Cloud region of the machine, such as `gcp:europe-west9` or `aws:eu-north-1`; it gives the zone "
        "and the PUE where they are not set.",
        parse=_region,
        write=grid.REGIONS,
    )
    pue: float | None = declared(
        None,
        default="that of the region, else 1.0",
        sentence="Power usage effectiveness of the site; it multiplies emissions, never energy.",
        parse=to_number(1, 10),
        write="a number from 1.0 to 10, the site's energy over its IT energy, such as 1.14",
    )
    detect_region: bool = declared(
        False,
        default="false",
        sentence="Where no region is set, ask the metadata service of the cloud whose machine this is, for 0.3 s "
        "at most.",
        parse=to_boolean,
        write="true or false",
    )
    intensity: str | None = declared(
        None,
        default="the yearly mean of the table",
        sentence="Provider of the grid's intensity by the hour, such as `uk`, or a CSV file; it is asked over the "
        "network, by a thread of its own.",
        parse=_provider,
        write="the name of a provider, such as 'uk', or a CSV file",
    )

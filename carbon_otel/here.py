"""The emission factor of this measurement: the place that the settings give, or that the cloud names on request.

The order is zone, region, world average. The place is never guessed from the address, the locale or the time zone;
the region that a machine's files name is a hint for the user, and counts only with `detect_region`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from carbon_otel.carbon.site import factor_of
from carbon_otel.guard import log_once
from carbon_otel.host import cloud

if TYPE_CHECKING:
    from carbon_otel.carbon.grid import EmissionFactor
    from carbon_otel.config import Settings


def factor(settings: Settings) -> EmissionFactor:
    """The factor of the settings' place. It waits 0.3 s at most, and only with `detect_region`."""
    name = settings.region
    if name is None and settings.detect_region:
        name = _detected()
    return factor_of(settings.zone, name, settings.pue)


def hint() -> str:
    """What to set, if files of this machine name its cloud; else the empty text."""
    found = cloud.find()
    if found is None:
        return ""
    name = found.name or f"{found.provider}:..."
    return f"{found.named_by} says that this machine is in the cloud {found.provider}: set region='{name}'"


def _detected() -> str | None:
    """The region of this machine as the tables have it; None with one line in the log if it is not known."""
    from carbon_otel.carbon.regions import region
    from carbon_otel.host import metadata

    found = cloud.find()
    if found is None:
        log_once("detect_region: nothing on this machine names a cloud; no region is used")
        return None
    try:
        name = found.name or f"{found.provider}:{metadata.region(found.provider)}"
        return region(name).name
    except (metadata.NoAnswer, ValueError) as error:
        log_once("detect_region: %s; no region is used", error)
        return None

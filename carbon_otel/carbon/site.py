"""The place of a measurement: what was given, else what the tables say of the cloud region, else the world."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from carbon_otel.carbon.grid import EmissionFactor, intensity

if TYPE_CHECKING:
    from carbon_otel.carbon.regions import CloudRegion

GIVEN: Final = "given"
NOT_GIVEN: Final = "not given"


def factor_of(zone: str | None, cloud: str | None, pue: float | None) -> EmissionFactor:
    """The emission factor of a place.

    The grid is that of `zone`, else of the cloud region, else the world average. The PUE is `pue`, else what the
    provider publishes of the region, else 1.

    Raises:
        ValueError: for an unknown zone or region.
    """
    here = None if cloud is None else _region(cloud)
    grid = intensity(zone if zone is not None or here is None else here.zone)
    name = "" if here is None else here.name
    if pue is not None:
        return EmissionFactor(grid, pue, GIVEN, name)
    if here is not None and here.pue is not None:
        return EmissionFactor(grid, here.pue.value, str(here.pue), name)
    return EmissionFactor(grid, 1.0, NOT_GIVEN, name)


def _region(name: str) -> CloudRegion:
    from carbon_otel.carbon.regions import region

    return region(name)

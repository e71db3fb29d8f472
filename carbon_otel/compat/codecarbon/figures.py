"""From footprints to the columns of CodeCarbon."""

from __future__ import annotations

import math
import platform
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol, cast

import psutil

import carbon_otel
from carbon_otel.carbon.grid import country
from carbon_otel.compat.codecarbon_columns import COMPONENTS, EmissionsData
from carbon_otel.footprint import NOT_MEASURED, Footprint
from carbon_otel.units import J_PER_KWH


class _Discovery(Protocol):
    @property
    def processor(self) -> str: ...

    @property
    def gpus(self) -> Sequence[str]: ...


class _Host(Protocol):
    """What is read of a measurement besides its figures."""

    @property
    def discovery(self) -> _Discovery: ...


# The columns of a host of which nothing is known.
UNKNOWN: Final[Mapping[str, Any]] = {
    "cpu_count": None,
    "cpu_model": "",
    "gpu_count": 0,
    "gpu_model": "",
    "ram_total_size": None,
}


def hardware(measurement: object) -> Mapping[str, Any]:
    """The columns of the host, as far as it is measured; `measurement` is None if it is not."""
    found = None if measurement is None else cast(_Host, measurement).discovery
    gpus = () if found is None else found.gpus
    return {
        "cpu_count": psutil.cpu_count(),
        "cpu_model": "" if found is None else found.processor,
        "gpu_count": len(gpus),
        "gpu_model": ", ".join(f"{number} x {name}" for name, number in Counter(gpus).items()),
        "ram_total_size": psutil.virtual_memory().total / 2**30,  # in GiB, as in CodeCarbon
    }


def emissions_data(footprints: Sequence[Footprint], columns: Mapping[str, Any]) -> EmissionsData:
    """The sum of at least one footprint in kWh, kg, W, s and litres, with these columns of the run.

    Figures of what was not measured are NaN.
    """
    first = footprints[0]
    seconds = math.fsum(each.duration_s for each in footprints)
    kwh = math.fsum(each.energy_kwh for each in footprints)
    kilograms = math.fsum(each.emissions_kg for each in footprints)
    zone = "" if first.intensity is None else first.intensity.zone
    name, code = country(zone.partition("-")[0])
    parts: dict[str, Any] = {}
    for column, component in COMPONENTS.items():
        joules = _joules_of(component, footprints)
        parts |= {f"{column}_energy": joules / J_PER_KWH, f"{column}_power": _per_s(joules, seconds)}
    return EmissionsData(
        timestamp=time.strftime("%Y-%m-%dT%H:%M:%S"),
        duration=seconds,
        emissions=kilograms,
        emissions_rate=_per_s(kilograms, seconds),
        energy_consumed=kwh,
        water_consumed=kwh * columns["wue"],
        country_name=name,
        country_iso_code=code,
        os=platform.platform(),
        python_version=platform.python_version(),
        codecarbon_version=f"carbon_otel {carbon_otel.__version__}",
        longitude=None,
        latitude=None,
        pue=first.pue,
        footprint=first if len(footprints) == 1 else NOT_MEASURED,
        **parts,
        **columns,
    )


def _joules_of(component: str, footprints: Sequence[Footprint]) -> float:
    nothing = [0.0 if each.devices else math.nan for each in footprints]
    joules = (each.components.get(component, none) for each, none in zip(footprints, nothing, strict=True))
    return math.fsum(joules)


def _per_s(amount: float, seconds: float) -> float:
    return amount / seconds if seconds > 0 else 0.0

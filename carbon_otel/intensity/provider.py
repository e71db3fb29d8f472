"""What a provider of carbon intensities offers, and the providers by name.

A package of yours adds a provider by the entry point group `carbon_otel_intensity`: the name of the entry point is
that of the provider, and the object is called with the folder of the cache.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final, Protocol

from carbon_otel.carbon.intensity import Intensity, Signal
from carbon_otel.intensity.online import Online
from carbon_otel.intensity.providers.csv_file import CsvFile

ENTRY_POINTS: Final = "carbon_otel_intensity"
BUILT_IN: Final = {
    "uk": "uk:UnitedKingdom",
    "energy-charts": "energy_charts:EnergyCharts",
    "energidataservice": "energi_data_service:EnergiDataService",
    "rte": "rte:Rte",
    "electricitymaps": "electricity_maps:ElectricityMaps",
    "watttime": "watttime:WattTime",
    "entsoe": "entsoe:Entsoe",
    "eia": "eia:Eia",
}


class Provider(Protocol):
    """A source of carbon intensities. All times are UTC, and intervals are half-open.

    Each method may wait for a file or the network, so only commands and threads of ours call it. It raises
    `Unavailable` with the reason, without a key in it, and ValueError for a zone that the provider does not have.
    """

    @property
    def name(self) -> str: ...

    @property
    def signal(self) -> Signal: ...

    def latest(self, zone: str) -> Intensity:
        """The value of the present interval, or of the last one that has a value."""
        ...

    def history(self, zone: str, start: datetime, end: datetime) -> Sequence[Intensity]:
        """The series between two times; intervals without a value are left out."""
        ...

    def forecast(self, zone: str, length: timedelta) -> Sequence[Intensity]:
        """The series from now on, as far as there is one."""
        ...


def require_known(name: str) -> None:
    """Raise ValueError for a name that is neither a CSV file nor a provider; the message has the names."""
    if name.lower().endswith(".csv") or name in BUILT_IN:
        return
    others = {point.name for point in entry_points(group=ENTRY_POINTS)}
    if name not in others:
        known = ", ".join([*BUILT_IN, *sorted(others)])
        raise ValueError(f"there is no provider {name!r}; write a file that ends in .csv, or one of {known}")


def find(name: str, cache: Path) -> Provider:
    """The provider of a name, or a file (`prices.csv`); `cache` is the folder for the answers of services.

    Raises:
        ValueError: for an unknown name or a file that cannot be read; the message has the names.
    """
    if name.lower().endswith(".csv"):
        return CsvFile(Path(name))
    if name in BUILT_IN:
        module, _, service = BUILT_IN[name].partition(":")
        return Online(
            getattr(importlib.import_module(f"carbon_otel.intensity.providers.{module}"), service)(), cache
        )
    require_known(name)
    point = next(point for point in entry_points(group=ENTRY_POINTS) if point.name == name)
    provider: Provider = point.load()(cache)
    return provider

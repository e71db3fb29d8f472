"""The columns of CodeCarbon's emissions.csv, and the records that its trackers return."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Final

from carbon_otel.footprint import NOT_MEASURED, Footprint


@dataclass
class EmissionsData:
    """The figures of a tracker or a task: kWh, kg, W, s and litres. What is not known is None.

    `footprint` is no column: it has the bands, methods and sources of the figures. For several tasks together it
    is not measured.
    """

    timestamp: str
    project_name: str
    run_id: str
    experiment_id: str
    duration: float
    emissions: float
    emissions_rate: float
    cpu_power: float
    gpu_power: float
    ram_power: float
    cpu_energy: float
    gpu_energy: float
    ram_energy: float
    energy_consumed: float
    water_consumed: float
    country_name: str
    country_iso_code: str
    region: str
    cloud_provider: str
    cloud_region: str
    os: str
    python_version: str
    codecarbon_version: str
    cpu_count: float | None
    cpu_model: str
    gpu_count: float
    gpu_model: str
    longitude: float | None
    latitude: float | None
    ram_total_size: float | None
    tracking_mode: str
    cpu_utilization_percent: float | None = None
    gpu_utilization_percent: float | None = None
    ram_utilization_percent: float | None = None
    ram_used_gb: float | None = None
    on_cloud: str = "N"
    pue: float = 1.0
    wue: float = 0.0
    footprint: Footprint = field(default=NOT_MEASURED, repr=False, compare=False)

    @property
    def values(self) -> dict[str, Any]:
        """The value of each column."""
        return {column: getattr(self, column) for column in COLUMNS}


COLUMNS: Final = tuple(each.name for each in fields(EmissionsData) if each.name != "footprint")
# Of the file with the tasks of a run.
TASK_COLUMNS: Final = (
    "task_name",
    *(column for column in COLUMNS if column not in ("experiment_id", "pue", "wue")),
)
# The prefix of the columns of a component, and its name in a footprint.
COMPONENTS: Final = {"cpu": "cpu", "gpu": "gpu", "ram": "memory"}

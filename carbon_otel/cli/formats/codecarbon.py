"""A report in the columns of CodeCarbon's emissions.csv, for dashboards. Unknown columns stay empty."""

from __future__ import annotations

from typing import Any

from carbon_otel.carbon.grid import country
from carbon_otel.compat.codecarbon_columns import COLUMNS as COLUMNS
from carbon_otel.compat.codecarbon_columns import COMPONENTS
from carbon_otel.lifecycle.entry import Entry, iso
from carbon_otel.lifecycle.report import Report
from carbon_otel.units import KILO, S_PER_H


def rows(report: Report) -> list[dict[str, Any]]:
    """One row per run, in kWh, kg, s and W."""
    return [_row(report.title, entry) for entry in report.entries]


def _row(title: str, entry: Entry) -> dict[str, Any]:
    kilograms, hours = entry.emissions_g / KILO, entry.duration_s / S_PER_H
    row = {
        "timestamp": iso(entry.start_ms).removesuffix("Z"),
        "project_name": title,
        "run_id": entry.run_id,
        "experiment_id": entry.experiment_id,
        "duration": entry.duration_s,
        "emissions": kilograms,
        "emissions_rate": kilograms / entry.duration_s if hours > 0 else 0.0,
        "energy_consumed": entry.energy_wh / KILO,
        "cpu_model": entry.tags.get("carbon.hardware", ""),
        "tracking_mode": "process" if entry.tags.get("carbon.attribution") == "process" else "machine",
        "on_cloud": "N",  # with Y, CodeCarbon's dashboard looks for a provider
        "pue": entry.tags.get("carbon.pue", ""),
    }
    for column, component in COMPONENTS.items():
        wh = entry.components.get(component, 0.0)
        row[f"{column}_energy"] = wh / KILO
        row[f"{column}_power"] = wh / hours if hours > 0 else 0.0
    zone = entry.tags.get("carbon.zone")
    if zone:
        row["country_name"], row["country_iso_code"] = country(zone)
    return row

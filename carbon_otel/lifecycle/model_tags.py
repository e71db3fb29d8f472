"""Totals of a report as tags of its model: a cache with a date, which is replaced and never incremented."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from carbon_otel.lifecycle.ledger import NotFound, model_of
from carbon_otel.lifecycle.report import Report

if TYPE_CHECKING:
    from mlflow import MlflowClient

PREFIX: Final = "carbon.lifecycle."
_LONGEST_KIND: Final = 200  # MLflow's limit for the name of a tag is 250; our kinds have at most 64


def save(client: MlflowClient, name: str, report: Report) -> str:
    """Tag a model version or model id with the totals of a report; returns its name.

    Raises NotFound if there is no such model, and the errors of the store.
    """
    model = model_of(client, name)
    if model is None:
        raise NotFound(f"{name!r} is not a model; write a registered model or a model id to save totals")
    total = report.total
    tags = {
        "energy_wh": f"{total.energy_wh:.6g}",
        "energy_band_wh": f"{total.low_wh:.6g} to {total.high_wh:.6g}",
        "emissions_g": f"{total.emissions_g:.6g}",
        "emissions_band_g": f"{total.low_g:.6g} to {total.high_g:.6g}",
        "embodied_g": "unknown" if report.beside.embodied_g is None else f"{report.beside.embodied_g:.6g}",
        "measured_fraction": f"{report.measured_fraction:.4f}",
        "entries": str(len(report.entries)),
        "lower_bounds": str(len(report.lower_bounds)),
        "recomputed_for": report.recomputed_for,
        "as_of": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    tags |= {
        f"{kind}_wh": f"{cost.energy_wh:.6g}"
        for kind, cost in report.by_stage.items()
        if len(kind) <= _LONGEST_KIND
    }
    if model.version is not None:
        for key, value in tags.items():
            client.set_model_version_tag(model.name, model.version, PREFIX + key, value)
    if model.model_id is not None:
        client.set_logged_model_tags(model.model_id, {PREFIX + key: value for key, value in tags.items()})
    return f"{model.name} version {model.version}" if model.version is not None else str(model.model_id)

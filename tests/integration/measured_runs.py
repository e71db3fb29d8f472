"""Runs of a store with figures that a test has chosen, written by the names that measured runs have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from carbon_otel.carbon.grid import intensity
from carbon_otel.carbon.life_cycle import Embodied
from carbon_otel.footprint import NOT_MEASURED, Cost, Footprint
from carbon_otel.mlflow.schema import names

BAND = 0.1  # of every energy
GRID_BAND = 0.4
START_MS = 1_790_000_000_000
S = 1000


@dataclass
class Made:
    """A run; energies in Wh by kind of stage.

    `curve` are the Wh at some seconds after the start, `history` the metrics of the user at some seconds.
    """

    stages: Mapping[str, float]
    name: str = "a"
    start_s: float = 0.0
    seconds: float = 100.0
    status: str = "FINISHED"
    final: bool = True
    params: Mapping[str, object] = field(default_factory=dict)
    curve: Sequence[tuple[float, float]] = ()
    history: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    units: Mapping[str, float] = field(default_factory=dict)
    devices: Mapping[str, float] = field(default_factory=dict)
    gpu: float = 0.0
    zone: str = "FR"
    hardware: str = "CPU"
    embodied_g: float | None = None
    parent: str | None = None
    hourly: str = ""
    dataset: str = ""

    @property
    def wh(self) -> float:
        return sum(self.stages.values())


def footprint(made: Made) -> Footprint:
    """Of the energies of a run, with a band of 10 % and the grid's of 40 %."""
    grid = intensity(made.zone)
    joules, grams = made.wh * 3600, made.wh / 1000 * grid.g_per_kwh
    both = (BAND**2 + GRID_BAND**2) ** 0.5
    embodied = None
    if made.embodied_g is not None:
        g = made.embodied_g
        by_kind = {kind: g * wh / made.wh for kind, wh in made.stages.items()}
        embodied = Embodied(g, g, g / 2, g * 2, by_kind, 4.0, "a table")
    return replace(
        NOT_MEASURED,
        energy_j=joules,
        low_j=joules * (1 - BAND),
        high_j=joules * (1 + BAND),
        emissions_g=grams,
        low_g=grams * (1 - both),
        high_g=grams * (1 + both),
        duration_s=made.seconds,
        measured_fraction=1.0,
        method="measured.counter",
        pue=1.0,
        pue_source="given",
        intensity=grid,
        missing=(),
        stages={kind: Cost(wh * 3600, wh / 1000 * grid.g_per_kwh) for kind, wh in made.stages.items()},
        devices_inclusive={name: wh * 3600 for name, wh in made.devices.items()},
        components={"cpu": joules - made.gpu * 3600, **({"gpu": made.gpu * 3600} if made.gpu else {})},
        embodied=embodied,
    )


def write(client: Any, experiment: str, made: Made) -> str:
    """Write a run; returns its id."""
    from mlflow.entities import Metric, Param, RunTag

    start_ms = START_MS + round(made.start_s * S)
    tags = {"mlflow.runName": made.name}
    if made.parent is not None:
        tags["mlflow.parentRunId"] = made.parent
    run_id = client.create_run(experiment, start_time=start_ms, tags=tags).info.run_id
    figures = footprint(made)
    provenance = names.provenance_tags(
        figures,
        status="final" if made.final else "running",
        hardware=made.hardware,
        attribution="reserved",
        trace_id=None,
        trace_url=None,
        lineage=None,
        process="p",
    )
    if made.hourly:
        provenance[names.HOURLY] = made.hourly
    end_ms = start_ms + round(made.seconds * S)
    values = names.footprint_metrics(figures, units=made.units)
    points = [Metric(name, value, end_ms, names.step(name, 1000)) for name, value in values.items()]
    points += [
        Metric(names.ENERGY_WH, wh, start_ms + round(at * S), step)
        for step, (at, wh) in enumerate(made.curve)
    ]
    for metric, history in made.history.items():
        points += [
            Metric(metric, value, start_ms + round(at * S), step) for step, (at, value) in enumerate(history)
        ]
    for begin in range(0, len(points), 1000):
        client.log_batch(run_id, metrics=points[begin : begin + 1000])
    client.log_batch(
        run_id,
        params=[Param(name, str(value)) for name, value in made.params.items()],
        tags=[RunTag(name, value) for name, value in provenance.items()],
    )
    if made.dataset:
        from mlflow.entities import Dataset, DatasetInput

        data = Dataset("data", made.dataset, "local", "{}")
        client.log_inputs(run_id, [DatasetInput(dataset=data, tags=[])])
    client.set_terminated(run_id, made.status, end_time=end_ms)
    return run_id

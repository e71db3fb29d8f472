"""What is recorded of one open run on its way to MLflow."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from carbon_otel import clock
from carbon_otel.mlflow.delivery import store_uri
from carbon_otel.mlflow.delivery.batch import Batch
from carbon_otel.mlflow.delivery.segment import Segment
from carbon_otel.mlflow.schema import names, rank_figures
from carbon_otel.ranks import TOGETHER, group
from carbon_otel.records import Foresight, RemoteCall, StageInfo
from carbon_otel.sinks import Figures, StageEnd

_TRAINING: Final = "training"


@dataclass(eq=False)
class RecordedRun:
    """An open run. All but `worked` is used on the delivery thread.

    Attributes:
        outer: the run that this one is nested in; if that ends first, the run around it from then on.
        inner: the open runs nested in this one.
        of_nested: the subtotals of the runs that have ended in it.
        latest: its subtotals at the last checkpoint that has it.
        handed: the subtotals that this run had at the end of its last `outer`, which contains them.
        units: the functional units of its stages.
        remote: the estimates for its calls of remote models, and their tags.
        worked: tells a run with figures that a program may read at its end from an empty one.
        begun_here: whether this process has created it, so that no other rank adds to it.
        joined: the address of the store, if another process has opened the run; empty while that run is unknown.
        train_s: the seconds of its training stages outside of others.
        together: the units of training that all ranks count, in this one.
        foresight_tags: what was forecast.
        last: its last batch, if another process has opened the run.
        began_s: on the monotonic clock.
        former: the part before it, whose run is not over for this process while it may go on in this part.
    """

    stage: StageInfo
    store: Any
    segment: Segment
    trace_id: str | None
    outer: RecordedRun | None = None
    inner: list[RecordedRun] = field(default_factory=list)
    of_nested: dict[str, float] = field(default_factory=dict)
    latest: Mapping[str, float] = field(default_factory=dict)
    handed: Mapping[str, float] = field(default_factory=dict)
    units: dict[str, float] = field(default_factory=dict)
    remote: dict[str, float] = field(default_factory=dict)
    remote_tags: dict[str, str] = field(default_factory=dict)
    worked: bool = False
    joined: str | None = None
    begun_here: bool = False
    train_s: float = 0.0
    together: dict[str, float] = field(default_factory=dict)
    foresight_tags: dict[str, str] = field(default_factory=dict)
    last: Batch | None = None
    former: RecordedRun | None = None
    began_s: float = field(default_factory=clock.monotonic)

    @property
    def run_id(self) -> str:
        return self.segment.run_id

    @functools.cached_property
    def address(self) -> str:
        return store_uri.of_store(self.store) if self.joined is None else self.joined

    def rank(self) -> dict[str, float]:
        """What its contribution has of this rank, if it is one."""
        return rank_figures.written(group, self.train_s, self.together)

    def count(self, stage: StageInfo, end: StageEnd) -> None:
        """Add the units of a stage that has ended, and its time if it has trained."""
        units = end.units if self.begun_here else group.summed(end.units)
        add(self.units, {f"{stage.kind}/{unit}": amount for unit, amount in units.items()})
        if stage.kind == _TRAINING:
            add(self.together, {unit: amount for unit, amount in end.units.items() if unit in TOGETHER})
            if stage.parent is None or stage.parent.kind != _TRAINING:
                self.train_s += end.duration_s

    def add_remote(self, call: RemoteCall) -> None:
        """Add the estimate for a call of a remote model."""
        add(self.remote, names.remote_metrics(call))
        self.remote_tags |= names.remote_tags(call)

    def foresee(self, foresight: Foresight) -> None:
        """It has a forecast, or a newer one."""
        self.segment.foresee(names.foresight_metrics(foresight))
        self.foresight_tags.update(names.foresight_tags(foresight))

    def since_handed(self, figures: Figures | None) -> dict[str, float]:
        """Its subtotals that its last outer run does not have; `figures` are its latest, None if unknown."""
        if figures is not None:
            self.latest = names.subtotals(figures.footprint)
        return {name: value - self.handed.get(name, 0.0) for name, value in self.latest.items()}


def add(sums: dict[str, float], more: Mapping[str, float]) -> None:
    """Add to sums by their names."""
    for name, value in more.items():
        sums[name] = sums.get(name, 0.0) + value

"""An entry of the ledger: the cost of one measured MLflow run without its nested runs, so that entries add up."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from carbon_otel.lifecycle.beside import NOTHING_BESIDE, EntryBeside
from carbon_otel.lifecycle.beside import read as read_beside
from carbon_otel.mlflow.schema import contributions, hourly, names, places, rank_figures
from carbon_otel.mlflow.schema.checked import Unreadable, amount
from carbon_otel.mlflow.schema.places import Place
from carbon_otel.mlflow.schema.rank_figures import RankFigures
from carbon_otel.units import MS_PER_S

if TYPE_CHECKING:
    from mlflow.entities import Run

_STAGE: Final = re.compile(r"carbon/([^/]+)/energy_wh")
_COMPONENT: Final = re.compile(r"carbon/components/([^/]+)_wh")
_NOT_OF_USER: Final = (names.PREFIX, "system/")
_DEVICE: Final = re.compile(r"carbon/devices/([^/]+)_wh")
_LAST_MS: Final = (
    253_402_300_799_000  # 9999-12-31T23:59:59Z, the last second that both `time.gmtime` and ISO dates support
)


class LedgerCost(NamedTuple):
    """Watt-hours, and grams of CO2 equivalent."""

    energy_wh: float
    emissions_g: float

    def plus(self, other: LedgerCost, share: float = 1.0) -> LedgerCost:
        """The sum with a share of another cost."""
        return LedgerCost(
            self.energy_wh + share * other.energy_wh, self.emissions_g + share * other.emissions_g
        )


@dataclass(frozen=True, slots=True)
class Entry:
    """The cost of one run without its nested runs.

    Attributes:
        status: status of the run in MLflow.
        start_ms: milliseconds since the epoch.
        stages: cost by kind of stage, exclusive; `run` is the time of the run between its stages.
        low_wh, high_wh, low_g, high_g: the band (k=2) of the sums.
        measured_wh: energy that a sensor measured.
        units: functional units by `<kind>/<unit>`.
        components: watt-hours of `cpu`, `gpu`, `memory`, `host`.
        devices: watt-hours by device, named as `names.device` does.
        tags: tags of the run that carbon_otel has written.
        dataset: the digest by which a run of another experiment belongs to the ledger; empty for all others.
        ranks: what each rank of a distributed training has contributed.
        beside: what stands beside its emissions and is in no other figure.
        params: those that the user has logged.
        metrics: likewise, such as `accuracy`; without those of carbon_otel and of the machine.
        moved: where its energy was used, if at several places; then its tags name them all.
    """

    run_id: str
    name: str
    experiment_id: str
    status: str
    start_ms: int
    stages: Mapping[str, LedgerCost]
    low_wh: float
    high_wh: float
    low_g: float
    high_g: float
    measured_wh: float
    duration_s: float
    units: Mapping[str, float]
    components: Mapping[str, float]
    tags: Mapping[str, str]
    dataset: str = ""
    ranks: tuple[RankFigures, ...] = ()
    beside: EntryBeside = NOTHING_BESIDE
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    devices: Mapping[str, float] = field(default_factory=dict)
    moved: tuple[Place, ...] = ()

    @property
    def places(self) -> tuple[Place, ...]:
        """Where its energy was used, one place or several; their energies add up to that of the entry."""
        if self.moved:
            return self.moved
        hours = self.tags.get(names.HOURLY, "")
        return (Place(places.tags_of(self.tags), self.energy_wh, self.emissions_g, hours),)

    @property
    def energy_wh(self) -> float:
        """Sum over the stages, in watt-hours."""
        return sum(cost.energy_wh for cost in self.stages.values())

    @property
    def emissions_g(self) -> float:
        """Sum over the stages, in grams of CO2 equivalent."""
        return sum(cost.emissions_g for cost in self.stages.values())

    @property
    def lower_bound(self) -> str | None:
        """The reason why the run may have used more than its band; None if its figures are complete."""
        return names.lower_bound(self.tags)

    @property
    def is_window(self) -> bool:
        """Whether the entry is an hour of work outside of runs, not a run of the user."""
        return names.ENTRY in self.tags

    @property
    def hardware(self) -> str:
        """The processor and the GPUs by name; empty if they are unknown."""
        return self.tags.get("carbon.hardware", "")

    @property
    def lifetime_years(self) -> float | None:
        """The years over which the embodied carbon is spread; None if they are unknown."""
        try:
            years = float(self.tags.get("carbon.lifetime_years", ""))
        except ValueError:
            return None
        return years if 0 < years < math.inf else None

    def market_g(self, kind: str) -> float | None:
        """The market-based grams of a kind of stage, by its energy; None if no intensity was given."""
        whole_g, whole_wh = self.beside.market_g, self.energy_wh
        if whole_g is None:
            return None
        return whole_g * self.stages[kind].energy_wh / whole_wh if whole_wh > 0 else 0.0

    def when(self, length: int) -> Mapping[str, float]:
        """The share of the energy by month or day (`hourly.MONTH`, `hourly.DAY`); the shares add up to 1."""
        shares = hourly.shares(self.tags.get(names.HOURLY, ""), length)
        return shares or {time.strftime("%Y-%m-%d", time.gmtime(self.start_ms / MS_PER_S))[:length]: 1.0}

    @classmethod
    def of(cls, run: Run) -> Entry | None:
        """The entry of a run; None if the run was not measured. Raises Unreadable."""
        figures, tags = contributions.figures_and_tags(run.data.metrics, run.data.tags)
        if names.ENERGY_WH not in figures:
            return None
        names.pue(tags)
        stages = _stages(figures)
        own_wh = sum(cost.energy_wh for cost in stages.values())
        own_g = sum(cost.emissions_g for cost in stages.values())
        # The band is that of the run with its nested runs; the entry gets the same share of it as of the energy.
        total_wh = amount(figures, names.ENERGY_WH)
        share = min(1.0, own_wh / total_wh) if total_wh > 0 else 0.0
        return cls(
            run_id=run.info.run_id,
            name=name_of(run),
            experiment_id=run.info.experiment_id,
            status=run.info.status,
            start_ms=_start_ms(run),
            stages=stages,
            # Any program may have changed these figures: a band contains its figure.
            low_wh=min(own_wh, amount(figures, "carbon/energy_low_wh") * share),
            high_wh=max(own_wh, amount(figures, "carbon/energy_high_wh") * share),
            low_g=min(own_g, amount(figures, "carbon/emissions_low_g") * share),
            high_g=max(own_g, amount(figures, "carbon/emissions_high_g") * share),
            measured_wh=min(own_wh, amount(figures, names.MEASURED_WH) * share),
            duration_s=figures.get("carbon/duration_s", math.nan),
            units={
                name.removeprefix(names.UNITS): count
                for name, count in figures.items()
                if name.startswith(names.UNITS)
            },
            components=_own(figures, _COMPONENT, "components"),
            tags=tags,
            ranks=rank_figures.of_tags(run.data.tags),
            beside=read_beside(figures, stages, share),
            params=dict(run.data.params),
            metrics={
                name: value for name, value in run.data.metrics.items() if not name.startswith(_NOT_OF_USER)
            },
            devices=_own(figures, _DEVICE, "devices"),
            moved=_moved(run, own_wh),
        )


def _moved(run: Run, own_wh: float) -> tuple[Place, ...]:
    """The places of a run that has several, with the energy of the run."""
    found = contributions.places_of(run.data.tags)
    sums_wh = sum(place.energy_wh for place in found)
    ratio = own_wh / sums_wh if sums_wh > 0 else 1.0
    return tuple(place._replace(energy_wh=place.energy_wh * ratio) for place in found)


def _stages(figures: Mapping[str, float]) -> dict[str, LedgerCost]:
    """Cost by kind of stage, without the nested runs."""
    stages = {}
    for name in figures:
        match = _STAGE.fullmatch(name)
        if match:
            kind = match[1]
            energy_wh = amount(figures, name) - figures.get(names.nested_metric(kind, "energy_wh"), 0.0)
            emissions_g = amount(figures, f"carbon/{kind}/emissions_g")
            emissions_g -= figures.get(names.nested_metric(kind, "emissions_g"), 0.0)
            stages[kind] = LedgerCost(max(0.0, energy_wh), max(0.0, emissions_g))
    return stages


def _own(figures: Mapping[str, float], pattern: re.Pattern[str], group: str) -> dict[str, float]:
    """Watt-hours by component or by device, without the nested runs."""
    return {
        match[1]: max(0.0, wh - figures.get(f"carbon/nested/{group}/{match[1]}_wh", 0.0))
        for name, wh in figures.items()
        if (match := pattern.fullmatch(name))
    }


def name_of(run: Run) -> str:
    """The name of a run; its id if it has none."""
    return str(run.info.run_name or run.info.run_id)


def _start_ms(run: Run) -> int:
    start_ms = run.info.start_time
    if not isinstance(start_ms, int) or not 0 <= start_ms <= _LAST_MS:
        raise Unreadable(f"its start time is {start_ms}")
    return start_ms


def iso(ms: int) -> str:
    """A time in milliseconds since the epoch as ISO 8601, UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ms / MS_PER_S))

"""A repeat: one measured run of a group, its quality, and its energy per unit of work."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from carbon_otel.lifecycle.comparison import NotMeasured, RunCost
from carbon_otel.lifecycle.entry import Entry, LedgerCost, name_of
from carbon_otel.mlflow.schema.checked import Unreadable
from carbon_otel.records import RUN

if TYPE_CHECKING:
    from mlflow.entities import Run

INFERENCE: Final = "inference"
TRAINING: Final = "training"
# The unit that is taken first if the runs have several: tokenizers differ, samples do not.
_FIRST: Final = ("samples", "requests", "tokens")

_FAILED: Final = ("FAILED", "KILLED")


class Work(NamedTuple):
    """What the energy is divided by: a unit of a kind of stage, such as samples of `inference`.

    The unit may be the run itself: a training makes one model, whatever it reads.
    """

    stage: str
    unit: str


@dataclass(frozen=True, slots=True)
class Repeat:
    """A run that can be compared: its entry without the nested runs, its cost with them, and its quality."""

    entry: Entry
    cost: RunCost
    quality: float

    def amount(self, work: Work) -> float:
        """The units of work; 0 if the run has none."""
        return 1.0 if work.unit == RUN else self.entry.units.get(f"{work.stage}/{work.unit}", 0.0)

    def per_unit(self, work: Work) -> LedgerCost:
        """Watt-hours and grams of CO2 equivalent for one unit."""
        cost, amount = self.entry.stages[work.stage], self.amount(work)
        return LedgerCost(cost.energy_wh / amount, cost.emissions_g / amount)

    def of_process(self) -> float | None:
        """The part of the energy that the CPU time of the run bears out; None without the shares."""
        cost = self.cost.by_process()
        return None if cost is None or self.cost.energy_wh <= 0 else cost.energy_wh / self.cost.energy_wh


def band_of(repeats: Sequence[Repeat]) -> tuple[float, float]:
    """The band of the meter (k=2) about the energy of repeats, as two factors."""
    wh = math.fsum(each.entry.energy_wh for each in repeats)
    low, high = (math.fsum(getattr(each.entry, end) for each in repeats) for end in ("low_wh", "high_wh"))
    return low / wh, high / wh


def measured_fraction(repeats: Sequence[Repeat]) -> float:
    """The share of their energy that sensors measured."""
    measured, wh = (
        math.fsum(getattr(each.entry, name) for each in repeats) for name in ("measured_wh", "energy_wh")
    )
    return measured / wh


def read(runs: Iterable[Run], metric: str) -> tuple[list[Repeat], list[str]]:
    """The runs that can be compared, and the others, each with the reason."""
    repeats, left_out = [], []
    for run in runs:
        name = f"run {name_of(run)} ({run.info.run_id})"
        try:
            cost = RunCost.of(run.info.run_id, name_of(run), run.data.metrics, run.data.tags)
            entry = Entry.of(run)
        except NotMeasured as reason:  # which has the name
            left_out.append(str(reason))
            continue
        except Unreadable as reason:
            left_out.append(f"{name}: {reason}")
            continue
        quality = run.data.metrics.get(metric, math.nan)
        if entry is None or entry.lower_bound:
            left_out.append(f"{name} {entry.lower_bound if entry else 'was not measured'}")
        elif entry.status in _FAILED:
            # It may have done a part of the work, and saved energy by that alone.
            left_out.append(f"{name} has the status {entry.status}")
        elif not math.isfinite(quality):
            left_out.append(f"{name} has no metric {metric!r}")
        else:
            repeats.append(Repeat(entry, cost, float(quality)))
    return repeats, left_out


def work_of(repeats: Sequence[Repeat], stage: str | None, unit: str | None) -> Work:
    """The work that all repeats have in common.

    Inference if all have it, else training, else their only kind of stage; for inference samples, requests,
    tokens or another unit that all have, and for other stages the run.

    Raises:
        ValueError: for a stage or unit that a repeat does not have; the message has the possible ones.
    """
    common = [kind for kind in repeats[0].entry.stages if all(_energy(each, kind) for each in repeats)]
    stages = [kind for kind in common if kind != RUN] or common
    if stage is None:
        stage = next((kind for kind in (INFERENCE, TRAINING) if kind in stages), None)
        if stage is None and len(stages) == 1:
            stage = stages[0]
    if stage is None or stage not in common:
        known = ", ".join(common) or "none"
        raise ValueError(f"name a stage in which all runs have used energy: {known}")
    units = _units(repeats, stage)
    if unit is None:
        known_units = [each for each in (*_FIRST, *units) if each in units]
        unit = known_units[0] if stage == INFERENCE and known_units else RUN
    if unit != RUN and unit not in units:
        raise ValueError(f"name a unit that {stage} has in all runs: {', '.join((*units, RUN))}")
    return Work(stage, unit)


def _energy(repeat: Repeat, kind: str) -> bool:
    return kind in repeat.entry.stages and repeat.entry.stages[kind].energy_wh > 0


def _units(repeats: Sequence[Repeat], stage: str) -> list[str]:
    """The units of a kind of stage that all repeats have."""
    units: Mapping[str, float] = repeats[0].entry.units
    of_stage = [name.removeprefix(f"{stage}/") for name in units if name.startswith(f"{stage}/")]
    return [unit for unit in of_stage if all(each.amount(Work(stage, unit)) > 0 for each in repeats)]

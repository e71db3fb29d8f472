"""The sums of a ledger: the life of a model by stage, attempt and month, and inference compared with training."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from carbon_otel.carbon.grid import intensity
from carbon_otel.carbon.intensity import AVERAGE, Intensity
from carbon_otel.frames import frame_of
from carbon_otel.lifecycle.attempts import Attempt, attempts_of
from carbon_otel.lifecycle.beside import Beside, beside_of
from carbon_otel.lifecycle.entry import Entry, LedgerCost, iso
from carbon_otel.lifecycle.ledger import Ledger
from carbon_otel.lifecycle.total import Total, ratio, total_of
from carbon_otel.mlflow.schema import hourly, names
from carbon_otel.provenance import quadrature
from carbon_otel.units import KILO

if TYPE_CHECKING:
    import pandas

TRAINING: Final = "training"
INFERENCE: Final = "inference"
# The columns of `Report.rows()`.
ROW: Final = (
    "start",
    "run_id",
    "run_name",
    "status",
    "stage",
    "energy_wh",
    "emissions_g",
    "method",
    "zone",
    "hardware",
    "dataset",
    "lower_bound",
    "embodied_g",
    "market_g",
)
_NONE: Final = LedgerCost(0.0, 0.0)


class DayTotal(NamedTuple):
    """Energy of all inference up to the end of a day (ISO date, UTC), in Wh."""

    day: str
    inference_wh: float


@dataclass(frozen=True, slots=True)
class Report:
    """The cost of a model so far.

    Attributes:
        title: the requested name, and its experiment or lineage.
        entries: one per measured run, in the order of time; entries may be added to each other.
        total: sum of all entries. Entries on the same hardware share its errors, and entries of one zone the error
            of its grid intensity, so their deviations add up. Other errors are independent (quadrature).
        measured_fraction: share of the energy that sensors measured.
        by_stage, by_month: exclusive cost by kind of stage and by month (`2026-11`); each adds up to the total.
        per_unit: cost of one functional unit of inference, such as a request or a token.
        attempts: the entries for display: single runs, and the windows of one replica and model together.
        amortisation: energy of inference up to each day.
        passed_training: the first day (ISO) at whose end inference had used more than training; None until then.
        lower_bounds: entries that may have used more than their figures, each with the reason.
        prepared_elsewhere: runs of other experiments that created a dataset of this lineage. They count in full,
            even if other models have also used the dataset.
        unmeasured: runs of the lineage without figures.
        unreadable: runs whose figures cannot be read, each with the reason; the sums do not include them.
        beside: embodied carbon, market-based emissions and water, which no other figure contains, and SCI.
        recomputed_for: zone and year of the grid of recomputed emissions; empty if they are as logged.
    """

    title: str
    entries: tuple[Entry, ...]
    total: Total
    measured_fraction: float
    by_stage: Mapping[str, LedgerCost]
    by_month: Mapping[str, LedgerCost]
    per_unit: Mapping[str, LedgerCost]
    attempts: tuple[Attempt, ...]
    amortisation: tuple[DayTotal, ...]
    passed_training: str | None
    lower_bounds: tuple[str, ...]
    prepared_elsewhere: tuple[str, ...]
    unmeasured: tuple[str, ...]
    beside: Beside
    unreadable: tuple[str, ...] = ()
    recomputed_for: str = ""

    def __repr__(self) -> str:
        from carbon_otel.lifecycle.shown import summary

        return f"Report({summary(self)})"

    def _repr_html_(self) -> str:
        """The report for a notebook."""
        from carbon_otel.lifecycle.shown import card
        from carbon_otel.notebook.card import html

        return html(card(self))

    @property
    def signals(self) -> tuple[str, ...]:
        """What the intensities of the entries count. With several, the emissions add unlike figures."""
        return tuple(dict.fromkeys(e.tags.get(names.SIGNAL, str(AVERAGE)) for e in self.entries))

    @property
    def grids(self) -> Mapping[str, int]:
        """The grids that have priced the emissions, with the number of their entries."""
        known = (place.tags for entry in self.entries for place in entry.places if place.emissions_g > 0)
        grids = [
            f"{tags.get('carbon.zone', 'unknown')} {tags.get('carbon.intensity_g_per_kwh', '?')} g/kWh"
            for tags in known
        ]
        return Counter(grids)

    @property
    def repriced(self) -> str:
        """Former name of `recomputed_for`."""
        return self.recomputed_for

    def as_dict(self) -> dict[str, Any]:
        """The report in plain types, ready for JSON."""
        total = self.total
        return {
            "title": self.title,
            "energy_wh": total.energy_wh,
            "energy_low_wh": total.low_wh,
            "energy_high_wh": total.high_wh,
            "emissions_g": total.emissions_g,
            "emissions_low_g": total.low_g,
            "emissions_high_g": total.high_g,
            **self.beside.as_dict(),
            "measured_fraction": self.measured_fraction,
            "by_stage": {kind: cost._asdict() for kind, cost in self.by_stage.items()},
            "by_month": {month: cost._asdict() for month, cost in self.by_month.items()},
            "per_1000": {unit: _NONE.plus(cost, 1000)._asdict() for unit, cost in self.per_unit.items()},
            "attempts": [asdict(attempt) for attempt in self.attempts],
            "amortisation": [total._asdict() for total in self.amortisation],
            "passed_training": self.passed_training,
            "lower_bounds": list(self.lower_bounds),
            "prepared_elsewhere": list(self.prepared_elsewhere),
            "unmeasured": list(self.unmeasured),
            "unreadable": list(self.unreadable),
            "recomputed_for": self.recomputed_for,
            "signals": list(self.signals),
            "grids": dict(self.grids),
            "ranks": self.ranks(),
            "entries": self.rows(),
        }

    def rows(self) -> list[dict[str, Any]]:
        """One flat row per entry and kind of stage, energy in Wh and emissions in g."""
        return [
            {
                "start": iso(entry.start_ms),
                "run_id": entry.run_id,
                "run_name": entry.name,
                "status": entry.status,
                "stage": kind,
                "energy_wh": cost.energy_wh,
                "emissions_g": cost.emissions_g,
                "method": entry.tags.get("carbon.method", ""),
                "zone": entry.tags.get("carbon.zone", ""),
                "hardware": entry.tags.get("carbon.hardware", ""),
                "dataset": entry.dataset,
                "lower_bound": entry.lower_bound or "",
                # Empty where it is unknown.
                "embodied_g": None if entry.beside.embodied is None else entry.beside.embodied[kind],
                "market_g": entry.market_g(kind),
            }
            for entry in self.entries
            for kind, cost in entry.stages.items()
        ]

    def ranks(self) -> list[dict[str, Any]]:
        """One flat row per rank of the distributed trainings, energy in Wh and emissions in g."""
        return [
            {"run_id": entry.run_id, "run_name": entry.name, **figures._asdict()}
            for entry in self.entries
            for figures in entry.ranks
        ]

    def to_frame(self) -> pandas.DataFrame:
        """`rows()` as a pandas frame. Raises ImportError without pandas, which MLflow depends on."""
        return frame_of(self.rows(), ROW)

    def frame(self) -> pandas.DataFrame:
        """Former name of `to_frame`."""
        return self.to_frame()


def report_of(
    ledger: Ledger, zone: str | None = None, year: int | None = None, *, water: bool = False
) -> Report:
    """The sums of a ledger. `zone` or `year` recomputes the emissions for that grid, with each entry's PUE.

    `water` adds the litres of water that the electricity and the sites have consumed.

    Raises ValueError for a zone or year that the grid table does not have.
    """
    entries, grids = ledger.entries, []
    if zone is not None or year is not None:
        grids = [_grid(entry, zone, year) for entry in entries]
        entries = tuple(_recomputed(entry, grid) for entry, grid in zip(entries, grids, strict=True))
    entries = _told_apart(entries)
    total = total_of(entries)
    amortisation = _amortisation(entries)
    measured_wh = sum(entry.measured_wh for entry in entries)
    return Report(
        title=ledger.title,
        entries=entries,
        total=total,
        measured_fraction=ratio(measured_wh, total.energy_wh),
        by_stage=_sums(pair for entry in entries for pair in entry.stages.items()),
        by_month=_by_month(entries),
        per_unit=_per_unit(entries),
        attempts=attempts_of(entries),
        amortisation=amortisation,
        passed_training=_passed_training(entries, amortisation),
        lower_bounds=tuple(f"{entry.name} {entry.lower_bound}" for entry in entries if entry.lower_bound),
        prepared_elsewhere=tuple(f"{e.name} made dataset {e.dataset}" for e in entries if e.dataset),
        unmeasured=ledger.unmeasured,
        beside=beside_of(entries, water=water),
        unreadable=ledger.unreadable,
        recomputed_for="; ".join(
            dict.fromkeys(f"{g.name} {g.year} ({g.g_per_kwh:g} g/kWh, {g.source})" for g in grids)
        ),
    )


def _told_apart(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """The entries, with the begin of the run id after a name that several runs have."""
    runs = Counter(entry.name for entry in entries if not entry.is_window)
    return tuple(
        replace(entry, name=f"{entry.name} {entry.run_id[:8]}")
        if runs[entry.name] > 1 and not entry.is_window
        else entry
        for entry in entries
    )


def _grid(entry: Entry, zone: str | None, year: int | None) -> Intensity:
    if zone is not None:
        return intensity(zone, year)
    try:
        return intensity(entry.tags.get("carbon.zone"), year)
    except ValueError as error:
        raise ValueError(f"{entry.name}: {error}; write a zone for all entries too") from None


def _recomputed(entry: Entry, grid: Intensity) -> Entry:
    """The entry with the emissions of its energy on that grid."""
    factor = grid.g_per_kwh * names.pue(entry.tags) / KILO
    grams = entry.energy_wh * factor
    below = quadrature([ratio(entry.energy_wh - entry.low_wh, entry.energy_wh), 1 - grid.band.low])
    above = quadrature([ratio(entry.high_wh - entry.energy_wh, entry.energy_wh), grid.band.high - 1])
    return replace(
        entry,
        stages={
            kind: LedgerCost(cost.energy_wh, cost.energy_wh * factor) for kind, cost in entry.stages.items()
        },
        low_g=max(0.0, grams * (1 - below)),
        high_g=grams * (1 + above),
        tags={**entry.tags, **names.intensity_tags(grid)},
        beside=replace(entry.beside, water_l=None),  # that of the new grid
        moved=(),
        ranks=tuple(rank._replace(emissions_g=rank.energy_wh * factor) for rank in entry.ranks),
    )


def _sums(costs: Iterable[tuple[str, LedgerCost]]) -> dict[str, LedgerCost]:
    sums: dict[str, LedgerCost] = {}
    for key, cost in costs:
        sums[key] = sums.get(key, _NONE).plus(cost)
    return sums


def _by_month(entries: Iterable[Entry]) -> dict[str, LedgerCost]:
    sums = _sums(
        (month, _NONE.plus(LedgerCost(entry.energy_wh, entry.emissions_g), share))
        for entry in entries
        for month, share in entry.when(hourly.MONTH).items()
    )
    return dict(sorted(sums.items()))


def _per_unit(entries: Iterable[Entry]) -> dict[str, LedgerCost]:
    """Cost of one unit of inference; other stages count different things in units of the same name."""
    counts: dict[str, float] = defaultdict(float)
    costs: dict[str, LedgerCost] = {}
    for entry in entries:
        for unit, count in entry.units.items():
            kind, _, name = unit.partition("/")
            if kind == INFERENCE and count > 0:
                counts[name] += count
                costs[name] = costs.get(name, _NONE).plus(entry.stages.get(INFERENCE, _NONE))
    return {name: LedgerCost(*(figure / counts[name] for figure in cost)) for name, cost in costs.items()}


def _amortisation(entries: Iterable[Entry]) -> tuple[DayTotal, ...]:
    by_day: dict[str, float] = defaultdict(float)
    for entry in entries:
        wh = entry.stages.get(INFERENCE, _NONE).energy_wh
        if wh > 0:
            for day, share in entry.when(hourly.DAY).items():
                by_day[day] += wh * share
    days = sorted(by_day)
    return tuple(map(DayTotal, days, itertools.accumulate(by_day[day] for day in days)))


def _passed_training(entries: Iterable[Entry], amortisation: Iterable[DayTotal]) -> str | None:
    training_wh = sum(entry.stages.get(TRAINING, _NONE).energy_wh for entry in entries)
    return next((total.day for total in amortisation if 0 < training_wh < total.inference_wh), None)

"""The sums of a ledger: a model's whole life by stage, attempt and month, and what inference means for it."""

from __future__ import annotations

import itertools
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from carbon_otel.carbon.grid import Intensity, intensity
from carbon_otel.lifecycle.ledger import Entry, Ledger
from carbon_otel.mlflow.schema import hourly, names
from carbon_otel.provenance import quadrature

if TYPE_CHECKING:
    import pandas

TRAINING: Final = "training"
INFERENCE: Final = "inference"


@dataclass(frozen=True, slots=True)
class Total:
    """Watt-hours and grams of CO2e with their bands (k=2)."""

    energy_wh: float
    low_wh: float
    high_wh: float
    emissions_g: float
    low_g: float
    high_g: float


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run, or all windows of inference that have the same name and status."""

    name: str
    status: str
    entries: int
    energy_wh: float
    emissions_g: float
    method: str


@dataclass(frozen=True, slots=True)
class Report:
    """What a model has cost so far.

    Attributes:
        title: what was asked for.
        entries: one per measured run, in the order of time; each may be added to the others.
        total: of all entries. Entries on the same hardware share its errors, those of the same zone the error of
            its grid intensity (their deviations add up); different ones are independent (quadrature).
        measured_fraction: share of the energy that hardware has measured.
        by_stage, by_month: (Wh, g), exclusive, so that they add up to the total.
        per_unit: (Wh, g) per one functional unit of inference, such as requests or tokens.
        attempts: what is shown of the entries: each run by itself, the windows of one replica's model together.
        amortisation: (day, Wh of inference until then): it passes training where it gets above that of training.
        passed_training: the day (ISO) when inference had used more than all training; None where it has not.
        lower_bounds: which entries may have used more than they say, and why.
        prepared_elsewhere: runs of other experiments that made a dataset of this lineage. Counted whole, even
            where other models have used it, too.
        unmeasured: runs of the lineage that have no figures.
        repriced: the zone and year that emissions were computed for anew; empty where they are as they were.
    """

    title: str
    entries: tuple[Entry, ...]
    total: Total
    measured_fraction: float
    by_stage: Mapping[str, tuple[float, float]]
    by_month: Mapping[str, tuple[float, float]]
    per_unit: Mapping[str, tuple[float, float]]
    attempts: tuple[Attempt, ...]
    amortisation: tuple[tuple[str, float], ...]
    passed_training: str | None
    lower_bounds: tuple[str, ...]
    prepared_elsewhere: tuple[str, ...]
    unmeasured: tuple[str, ...]
    repriced: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain types, ready for JSON."""
        total = self.total
        return {
            "title": self.title,
            "energy_wh": total.energy_wh,
            "energy_low_wh": total.low_wh,
            "energy_high_wh": total.high_wh,
            "emissions_g": total.emissions_g,
            "emissions_low_g": total.low_g,
            "emissions_high_g": total.high_g,
            "measured_fraction": self.measured_fraction,
            "by_stage": {k: {"energy_wh": wh, "emissions_g": g} for k, (wh, g) in self.by_stage.items()},
            "by_month": {k: {"energy_wh": wh, "emissions_g": g} for k, (wh, g) in self.by_month.items()},
            "per_1000": {
                k: {"energy_wh": wh * 1000, "emissions_g": g * 1000} for k, (wh, g) in self.per_unit.items()
            },
            "attempts": [asdict(attempt) for attempt in self.attempts],
            "amortisation": [{"day": day, "inference_wh": wh} for day, wh in self.amortisation],
            "passed_training": self.passed_training,
            "lower_bounds": list(self.lower_bounds),
            "prepared_elsewhere": list(self.prepared_elsewhere),
            "unmeasured": list(self.unmeasured),
            "repriced": self.repriced,
            "entries": self.rows(),
        }

    def rows(self) -> list[dict[str, Any]]:
        """One flat row per entry and kind of stage."""
        return [
            {
                "start": _iso(entry.start_ms),
                "run_id": entry.run_id,
                "run_name": entry.name,
                "status": entry.status,
                "stage": kind,
                "energy_wh": wh,
                "emissions_g": grams,
                "method": entry.tags.get("carbon.method", ""),
                "zone": entry.tags.get("carbon.zone", ""),
                "hardware": entry.tags.get("carbon.hardware", ""),
                "dataset": entry.dataset,
                "lower_bound": entry.lower_bound or "",
            }
            for entry in self.entries
            for kind, (wh, grams) in entry.stages.items()
        ]

    def frame(self) -> pandas.DataFrame:
        """`rows()` as a pandas frame, which mlflow brings."""
        import pandas

        return pandas.DataFrame(self.rows())


def report_of(ledger: Ledger, zone: str | None = None, year: int | None = None) -> Report:
    """Add a ledger up; with `zone` or `year`, its emissions anew by that grid and each entry's own PUE.

    Raises ValueError for a zone or year that the grid table does not have.
    """
    anew = zone is not None or year is not None
    prices = [_price(e, zone, year) if anew else None for e in ledger.entries]
    entries = tuple(
        _repriced(entry, price) if price else entry
        for entry, price in zip(ledger.entries, prices, strict=True)
    )
    amortisation = _amortisation(entries)
    total = _total(entries)
    measured_wh = sum(entry.measured_wh for entry in entries)
    return Report(
        title=ledger.title,
        entries=entries,
        total=total,
        measured_fraction=measured_wh / total.energy_wh if total.energy_wh > 0 else 0.0,
        by_stage=_sums((kind, wh, g) for e in entries for kind, (wh, g) in e.stages.items()),
        by_month=dict(
            sorted(
                _sums(
                    (month, e.energy_wh * part, e.emissions_g * part)
                    for e in entries
                    for month, part in e.when(hourly.MONTH).items()
                ).items()
            )
        ),
        per_unit=_per_unit(entries),
        attempts=_attempts(entries),
        amortisation=amortisation,
        passed_training=_passed_training(entries, amortisation),
        lower_bounds=tuple(f"{e.name} {e.lower_bound}" for e in entries if e.lower_bound),
        prepared_elsewhere=tuple(f"{e.name} made dataset {e.dataset}" for e in entries if e.dataset),
        unmeasured=ledger.unmeasured,
        repriced="; ".join(
            dict.fromkeys(f"{p.name} {p.year} ({p.g_per_kwh:g} g/kWh, {p.source})" for p in prices if p)
        ),
    )


def _total(entries: Iterable[Entry]) -> Total:
    entries = list(entries)
    energy_wh = sum(entry.energy_wh for entry in entries)
    grams = sum(entry.emissions_g for entry in entries)

    below_wh, below_g = _deviations(entries, lambda e: (e.energy_wh - e.low_wh, e.emissions_g - e.low_g))
    above_wh, above_g = _deviations(entries, lambda e: (e.high_wh - e.energy_wh, e.high_g - e.emissions_g))
    return Total(
        energy_wh=energy_wh,
        low_wh=max(0.0, energy_wh - below_wh),
        high_wh=energy_wh + above_wh,
        emissions_g=grams,
        low_g=max(0.0, grams - below_g),
        high_g=grams + above_g,
    )


def _deviations(entries: Iterable[Entry], of: Callable[[Entry], tuple[float, float]]) -> tuple[float, float]:
    """Of the sums of watt-hours and grams, from those `of` the entries.

    An entry's emissions deviate with its energy, and by its grid's intensity: both are in its band, in quadrature.
    """
    energy: dict[str, float] = defaultdict(float)
    with_energy: dict[str, float] = defaultdict(float)
    by_grid: dict[str, float] = defaultdict(float)
    for entry in entries:
        wh, grams = of(entry)
        hardware, zone = entry.tags.get("carbon.hardware", ""), entry.tags.get("carbon.zone", "")
        own_g = entry.emissions_g * _ratio(wh, entry.energy_wh)
        energy[hardware] += wh
        with_energy[hardware] += own_g
        by_grid[zone] += math.sqrt(max(grams**2 - own_g**2, 0.0))
    return quadrature(energy.values()), quadrature([*with_energy.values(), *by_grid.values()])


def _price(entry: Entry, zone: str | None, year: int | None) -> Intensity:
    if zone is not None:
        return intensity(zone, year)
    try:
        return intensity(entry.tags.get("carbon.zone"), year)
    except ValueError as error:
        raise ValueError(f"{entry.name}: {error}; name one zone for all entries, too") from None


def _repriced(entry: Entry, price: Intensity) -> Entry:
    factor = price.g_per_kwh * float(entry.tags.get("carbon.pue", "1")) / 1000
    grams = entry.energy_wh * factor
    below = quadrature([_ratio(entry.energy_wh - entry.low_wh, entry.energy_wh), 1 - price.band.low])
    above = quadrature([_ratio(entry.high_wh - entry.energy_wh, entry.energy_wh), price.band.high - 1])
    return replace(
        entry,
        stages={kind: (wh, wh * factor) for kind, (wh, _) in entry.stages.items()},
        low_g=max(0.0, grams * (1 - below)),
        high_g=grams * (1 + above),
        tags={**entry.tags, **names.intensity_tags(price)},
    )


def _sums(parts: Iterable[tuple[str, float, float]]) -> dict[str, tuple[float, float]]:
    sums: dict[str, tuple[float, float]] = {}
    for key, wh, grams in parts:
        before_wh, before_g = sums.get(key, (0.0, 0.0))
        sums[key] = before_wh + wh, before_g + grams
    return sums


def _per_unit(entries: Iterable[Entry]) -> dict[str, tuple[float, float]]:
    """Of inference, as its units tell; other stages count other things in the same units."""
    found: dict[str, tuple[float, float]] = {}
    done: dict[str, float] = defaultdict(float)
    cost: dict[str, tuple[float, float]] = {}
    for entry in entries:
        wh, grams = entry.stages.get(INFERENCE, (0.0, 0.0))
        for unit, amount in entry.units.items():
            kind, _, name = unit.partition("/")
            if kind == INFERENCE and amount > 0:
                done[name] += amount
                before = cost.get(name, (0.0, 0.0))
                cost[name] = before[0] + wh, before[1] + grams
    for name, amount in done.items():
        found[name] = cost[name][0] / amount, cost[name][1] / amount
    return found


def _attempts(entries: Iterable[Entry]) -> tuple[Attempt, ...]:
    groups: dict[object, list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[(entry.name, entry.status) if entry.is_window else entry.run_id].append(entry)
    return tuple(
        Attempt(
            name=group[0].name,
            status=group[0].status,
            entries=len(group),
            energy_wh=sum(e.energy_wh for e in group),
            emissions_g=sum(e.emissions_g for e in group),
            method=", ".join(dict.fromkeys(e.tags.get("carbon.method", "unknown") for e in group)),
        )
        for group in groups.values()
    )


def _amortisation(entries: Iterable[Entry]) -> tuple[tuple[str, float], ...]:
    by_day: dict[str, float] = defaultdict(float)
    for entry in entries:
        wh, _ = entry.stages.get(INFERENCE, (0.0, 0.0))
        if wh > 0:
            for day, part in entry.when(hourly.DAY).items():
                by_day[day] += wh * part
    until = itertools.accumulate(wh for _, wh in sorted(by_day.items()))
    return tuple(zip(sorted(by_day), until, strict=True))


def _passed_training(entries: Iterable[Entry], amortisation: Iterable[tuple[str, float]]) -> str | None:
    training_wh = sum(entry.stages.get(TRAINING, (0.0, 0.0))[0] for entry in entries)
    return next((day for day, wh in amortisation if 0 < training_wh < wh), None)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


def _iso(ms: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ms / 1000))

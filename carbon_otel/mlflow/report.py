"""The sums of a ledger: a model's whole life by stage, attempt and month, and what inference means for it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from carbon_otel.carbon.grid import Intensity
from carbon_otel.mlflow.ledger import Entry, Ledger
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
class Report:
    """What a model has cost so far.

    Attributes:
        title: what was asked for.
        entries: one per measured run, in the order of time; each may be added to the others.
        total: of all entries. Entries on the same hardware share its errors (their deviations add up), those on
            different hardware are independent (quadrature).
        measured_fraction: share of the energy that hardware has measured.
        by_stage, by_month: (Wh, g), exclusive, so that they add up to the total.
        passed_training: the day (ISO) when inference had used more than all training; None where it has not.
        lower_bounds: which entries may have used more than they say, and why.
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
    passed_training: str | None
    lower_bounds: tuple[str, ...]
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
            "passed_training": self.passed_training,
            "lower_bounds": list(self.lower_bounds),
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
                "lower_bound": entry.lower_bound or "",
            }
            for entry in self.entries
            for kind, (wh, grams) in entry.stages.items()
        ]

    def frame(self) -> pandas.DataFrame:
        """`rows()` as a pandas frame, which mlflow brings."""
        import pandas

        return pandas.DataFrame(self.rows())


def report_of(ledger: Ledger, price: Intensity | None = None) -> Report:
    """Add a ledger up; with `price`, its emissions anew by this intensity and each entry's own PUE."""
    entries = tuple(_repriced(entry, price) for entry in ledger.entries) if price else ledger.entries
    total = _total(entries)
    measured_wh = sum(entry.measured_wh for entry in entries)
    return Report(
        title=ledger.title,
        entries=entries,
        total=total,
        measured_fraction=measured_wh / total.energy_wh if total.energy_wh > 0 else 0.0,
        by_stage=_sums((kind, wh, g) for e in entries for kind, (wh, g) in e.stages.items()),
        by_month=_sums((_iso(e.start_ms)[:7], e.energy_wh, e.emissions_g) for e in entries),
        per_unit=_per_unit(entries),
        passed_training=_passed_training(entries),
        lower_bounds=tuple(f"{e.name} {e.lower_bound}" for e in entries if e.lower_bound),
        unmeasured=ledger.unmeasured,
        repriced=f"{price.name} {price.year} ({price.g_per_kwh:g} g/kWh, {price.source})" if price else "",
    )


def _total(entries: Iterable[Entry]) -> Total:
    entries = list(entries)
    energy_wh = sum(entry.energy_wh for entry in entries)
    grams = sum(entry.emissions_g for entry in entries)

    def deviation(of: Callable[[Entry], float]) -> float:
        by_hardware: dict[str, float] = defaultdict(float)
        for entry in entries:
            by_hardware[entry.tags.get("carbon.hardware", "")] += of(entry)
        return quadrature(by_hardware.values())

    return Total(
        energy_wh=energy_wh,
        low_wh=max(0.0, energy_wh - deviation(lambda e: e.energy_wh - e.low_wh)),
        high_wh=energy_wh + deviation(lambda e: e.high_wh - e.energy_wh),
        emissions_g=grams,
        low_g=max(0.0, grams - deviation(lambda e: e.emissions_g - e.low_g)),
        high_g=grams + deviation(lambda e: e.high_g - e.emissions_g),
    )


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
        tags={**entry.tags, "carbon.zone": price.zone},
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


def _passed_training(entries: Iterable[Entry]) -> str | None:
    entries = list(entries)
    training_wh = sum(entry.stages.get(TRAINING, (0.0, 0.0))[0] for entry in entries)
    inference_wh = 0.0
    for entry in entries:
        inference_wh += entry.stages.get(INFERENCE, (0.0, 0.0))[0]
        if 0 < training_wh < inference_wh:
            return _iso(entry.start_ms)[:10]
    return None


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


def _iso(ms: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ms / 1000))

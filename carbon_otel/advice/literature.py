"""Factors from the literature, `data/saving_factors.csv`, that apply to the phases and the hardware of a ledger.

They are ranges that others have measured on other models and hardware, and are never multiplied: with each other,
because they overlap, or with the energy of a run, because it is another one.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any, Final

from carbon_otel.lifecycle.report import INFERENCE, TRAINING, Report

WARNING: Final = (
    "Others have measured these on their models and hardware. They overlap: never multiply or add them; measure "
    "one change at a time."
)
CHECKED: Final = {
    "read": "read in the source",
    "ran": "computed from its data",
    "secondhand": "read in a third party's text",
    "recall": "from memory, not verified",
}
# What a row may need: a GPU among the measured components, or tokens among the units.
GPU: Final = "gpu"
TOKENS: Final = "tokens"
# How most of them are verified: it is said once, and `verify` of such a row is this sentence.
BY_TRIAL: Final = "joules per unit before and after, on the same hardware, at equal quality"
_WHAT: Final = {"energy": "energy", "co2": "CO2e", "time": "time"}


@dataclass(frozen=True, slots=True)
class Factor:
    """A published change; shares are positive where it saves and negative where it costs more.

    Attributes:
        technique: the key of the row.
        title: what was changed.
        lever: model, machine, mechanization or map; `all` for all together.
        phase: training, inference or both.
        needs: what a run must have for it to apply.
        metric: energy, co2, or time, which is an upper limit for energy.
        low, typical, high: shares saved; None is unknown.
        condition: under which conditions.
        measured_on: hardware and model of the publication.
        year, source, licence: of the publication.
        checked: how far the figure was verified; a key of `CHECKED`.
        verify: what would have to be measured here.
    """

    technique: str
    title: str
    lever: str
    phase: str
    needs: tuple[str, ...]
    metric: str
    low: float | None
    typical: float | None
    high: float | None
    condition: str
    measured_on: str
    year: int
    source: str
    licence: str
    checked: str
    verify: str

    @property
    def costs_more(self) -> bool:
        """Whether the typical figure, else the only one, is negative."""
        known = [each for each in (self.typical, self.high, self.low) if each is not None]
        return bool(known) and known[0] < 0

    @property
    def change(self) -> str:
        """The range in words: `11 to 23 % less energy, typically 15 % less`."""
        known = [each for each in (self.low, self.typical, self.high) if each is not None]
        what = _WHAT[self.metric]
        if not known:
            return f"{what}: no single figure"
        least, most = min(known), max(known)
        if self.typical is not None and (least == most or len(known) == 1):
            return f"about {_signed(self.typical)} {what}"
        if len(known) == 1:
            return f"up to {_signed(known[0])} {what}"
        if least >= 0:
            text = f"{_percent(least)} to {_signed(most)} {what}"
        elif most <= 0:
            text = f"{_percent(most)} to {_signed(least)} {what}"
        else:
            text = f"from {_signed(least)} to {_signed(most)} {what}"
        return text if self.typical is None else f"{text}, typically {_signed(self.typical)}"

    def as_dict(self) -> dict[str, Any]:
        """In plain types, with the texts."""
        return {**asdict(self), "change": self.change, "checked": CHECKED[self.checked]}


def factors() -> Iterator[Factor]:
    """All rows of the table."""
    text = (files("carbon_otel.advice") / "data/saving_factors.csv").read_text("utf-8")
    for row in csv.DictReader(text.splitlines()):
        low, typical, high = (float(row[name]) if row[name] else None for name in ("low", "typical", "high"))
        yield Factor(
            **{name: row[name] for name in ("technique", "title", "lever", "phase", "metric")},
            needs=tuple(row["needs"].split()),
            low=low,
            typical=typical,
            high=high,
            **{name: row[name] for name in ("condition", "measured_on", "source", "licence", "checked")},
            year=int(row["year"]),
            verify=row["verify"],
        )


def applicable(report: Report) -> tuple[Factor, ...]:
    """The rows that apply to a ledger by the phases that it has energy of, its components and its units."""
    known = [
        kind
        for kind in (TRAINING, INFERENCE)
        if kind in report.by_stage and report.by_stage[kind].energy_wh > 0
    ]
    phases = {*(known or (TRAINING, INFERENCE)), "both"}  # what runs without stages did is unknown
    has = set()
    if any(entry.components.get("gpu", 0.0) > 0 for entry in report.entries):
        has.add(GPU)
    if any(unit.endswith(TOKENS) for entry in report.entries for unit in entry.units):
        has.add(TOKENS)
    return tuple(each for each in factors() if each.phase in phases and has.issuperset(each.needs))


def _percent(share: float) -> str:
    return f"{abs(share) * 100:.3g}"


def _signed(share: float) -> str:
    return f"{_percent(share)} % {'more' if share < 0 else 'less'}"

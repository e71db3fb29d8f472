"""The attempts of a report: single runs, and the windows of one replica and model together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from carbon_otel.lifecycle.entry import Entry, iso
from carbon_otel.lifecycle.total import total_of


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run, or all windows with the same name and status; `entries` is their number.

    Energy in Wh, emissions in g of CO2 equivalent, each with its band (k=2).

    Attributes:
        name: told apart by the begin of the run id, where several runs have the same.
        method: the method tiers.
        run_id: of the run, or of the first window.
        start: ISO 8601, UTC; of the first window.
        duration_s: sum of the entries; NaN if it is unknown.
        lower_bound: the reason why it may have used more than its figures; None if they are complete.
        params, metrics: those that the user has logged.
    """

    name: str
    status: str
    entries: int
    energy_wh: float
    emissions_g: float
    method: str
    run_id: str
    start: str
    duration_s: float
    low_wh: float
    high_wh: float
    low_g: float
    high_g: float
    lower_bound: str | None
    params: Mapping[str, str]
    metrics: Mapping[str, float]


def attempts_of(entries: Iterable[Entry]) -> tuple[Attempt, ...]:
    """The attempts of entries, in the order of their first ones."""
    groups: dict[object, list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[(entry.name, entry.status) if entry.is_window else entry.run_id].append(entry)
    return tuple(map(_attempt, groups.values()))


def _attempt(group: Sequence[Entry]) -> Attempt:
    first, total = group[0], total_of(group)
    return Attempt(
        name=first.name,
        status=first.status,
        entries=len(group),
        energy_wh=total.energy_wh,
        emissions_g=total.emissions_g,
        method=", ".join(dict.fromkeys(e.tags.get("carbon.method", "unknown") for e in group)),
        run_id=first.run_id,
        start=iso(first.start_ms),
        duration_s=sum(entry.duration_s for entry in group),
        low_wh=total.low_wh,
        high_wh=total.high_wh,
        low_g=total.low_g,
        high_g=total.high_g,
        lower_bound=next((entry.lower_bound for entry in group if entry.lower_bound), None),
        params=first.params,
        metrics=first.metrics,
    )

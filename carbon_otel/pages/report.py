"""The page of `carbon-otel report`: what a model has cost over its life."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any, Final, NamedTuple, TypeVar

from carbon_otel.lifecycle.attempts import Attempt
from carbon_otel.lifecycle.day_profile import day_profile
from carbon_otel.lifecycle.entry import Entry, LedgerCost
from carbon_otel.lifecycle.report import INFERENCE, TRAINING, Report
from carbon_otel.lifecycle.total import total_of
from carbon_otel.lifecycle.where import Where
from carbon_otel.pages import charts
from carbon_otel.pages.environment import Made, render
from carbon_otel.pages.values import Values, chosen
from carbon_otel.pages.where import PlaceRow, rows_of

_Day = TypeVar("_Day")
_MOST_ATTEMPTS: Final = 100
_MOST_STAGES: Final = 8
_MOST_MONTHS: Final = 24
_NOTHING: Final = LedgerCost(0.0, 0.0)
_ABOVE: Final = 1.08  # the highest point of a line is below the edge
_MOST_LINES: Final = 20
_MOST_PLACES: Final = 6
_MOST_POINTS: Final = 200
_DAYS_IN_TABLE: Final = 8
_MOST_RANKS: Final = 16
_RANKED_RUNS: Final = 4
# The columns of the provenance, each with the tags that it shows.
_SOURCES: Final = {
    "method": ("method",),
    "attribution": ("attribution",),
    "grid": ("zone", "intensity_g_per_kwh"),
    "intensity source": ("intensity_source", "intensity_year"),
    "pue": ("pue", "pue_source"),
    "hardware": ("hardware",),
    "embodied source": ("embodied_source",),
    "version": ("version",),
}
# The same stage has the same colour on every page: the numbers are those of the style sheet.
_COLOURS: Final = {"data_processing": 1, TRAINING: 2, "evaluation": 3, INFERENCE: 4, "run": 0}
_OTHER_COLOURS: Final = (5, 6, 7, 8)


class StageRow(NamedTuple):
    """A kind of stage, with the letter and the colour of its part of the bar, which is `percent` long."""

    letter: str
    colour: int
    name: str
    cost: LedgerCost
    embodied_g: float | None
    percent: float


class Attempts(NamedTuple):
    """The attempts that the page shows, in the order of time, and the sum of the others."""

    rows: Sequence[Attempt]
    bars: Sequence[charts.Bar]
    params: Values
    metrics: Values
    others: int
    of_others: LedgerCost


class Amortised(NamedTuple):
    """The line of inference over the days, with that of training; all places are in percent."""

    line: str
    training: float
    passed: float | None
    days: Sequence[charts.Mark]
    energies: Sequence[charts.Mark]
    unit: str
    table: Sequence[tuple[str, float, float]]


def page(report: Report, made: Made, where: Where | None = None, metric: str | None = None) -> str:
    """The page.

    Args:
        report: the sums.
        made: of the footer.
        where: the same energy in other regions, if its entries have energy.
        metric: the user's metric that comes first, such as `accuracy`.

    Raises:
        ValueError: if no attempt has that metric.
    """
    stages, attempts = _stages(report), _attempts(report.attempts, metric)
    amortised, profile = _amortised(report), day_profile(report.entries)
    months = _months(report.by_month)
    ranked = [entry for entry in report.entries if entry.ranks]
    sections = {
        "stages": "Stages",
        "attempts": "Attempts",
        "months": "Months" if len(months) > 1 else "",
        "amortisation": "Training and inference" if amortised else "",
        "place": "Where and when",
        "beside": "Beside the emissions",
        "ranks": "Ranks" if ranked else "",
        "sources": "Where the figures come from",
    }
    return render(
        "report.html",
        made,
        title=report.title,
        sections={name: title for name, title in sections.items() if title},
        report=report,
        total=report.total,
        stages=stages,
        energy_scale=charts.energy_scale,
        emissions_scale=charts.emissions_scale,
        attempts=attempts,
        months=months,
        amortised=amortised,
        training=report.by_stage.get(TRAINING),
        hours=charts.bars([(f"{hour:02}", wh) for hour, wh in enumerate(profile.by_hour_wh)]),
        profile=profile,
        where=where,
        places=_places(where),
        beside=_beside(report),
        ranked=[(entry, _slowest(entry)) for entry in ranked[:_RANKED_RUNS]],
        more_ranked=len(ranked[_RANKED_RUNS:]),
        period=_period(report.entries),
        notes=_notes(report),
        source_names=list(_SOURCES),
        sources=_sources(report.entries),
    )


def _stages(report: Report) -> list[StageRow]:
    """The kinds of stage, the largest first; the smallest of many are added up."""
    costs = sorted(report.by_stage.items(), key=lambda item: -item[1].energy_wh)
    embodied = report.beside.embodied_by_stage
    rows = [(name, cost, embodied.get(name)) for name, cost in costs[:_MOST_STAGES]]
    if rest := costs[_MOST_STAGES:]:
        sums = LedgerCost(*(sum(figures) for figures in zip(*(cost for _, cost in rest), strict=True)))
        made = [embodied[name] for name, _ in rest if name in embodied]
        rows.append((f"{len(rest)} others", sums, sum(made) if len(made) == len(rest) else None))
    colours = iter(_OTHER_COLOURS * _MOST_STAGES)
    percents = charts.parts([cost.energy_wh for _, cost, _ in rows])
    return [
        StageRow(
            letter=chr(ord("A") + place),
            colour=_COLOURS[name] if name in _COLOURS else next(colours),
            name=name,
            cost=cost,
            embodied_g=made_g,
            percent=percent,
        )
        for place, ((name, cost, made_g), percent) in enumerate(zip(rows, percents, strict=True))
    ]


def _attempts(attempts: Sequence[Attempt], metric: str | None) -> Attempts:
    """The attempts that have used most, if there are many."""
    order = sorted(attempts, key=lambda attempt: -attempt.energy_wh)
    shown = {id(attempt) for attempt in order[:_MOST_ATTEMPTS]}
    rows = [attempt for attempt in attempts if id(attempt) in shown]
    others = order[_MOST_ATTEMPTS:]
    if metric is not None and not any(metric in attempt.metrics for attempt in attempts):
        raise ValueError(f"none of these runs has a metric {metric!r}")
    return Attempts(
        rows,
        charts.bars([(attempt.name, attempt.energy_wh) for attempt in rows]),
        chosen([attempt.params for attempt in rows]),
        chosen([attempt.metrics for attempt in rows], metric),
        len(others),
        LedgerCost(sum(each.energy_wh for each in others), sum(each.emissions_g for each in others)),
    )


def _months(by_month: Mapping[str, LedgerCost]) -> list[tuple[charts.Bar, LedgerCost]]:
    """The months up to the last one with energy, also those without; the earliest of many are one bar."""
    numbers = {month: _number(month) for month in by_month}
    last = max((number for number in numbers.values() if number is not None), default=0)
    first = max(
        min((number for number in numbers.values() if number is not None), default=1), last - _MOST_MONTHS + 1
    )
    rows = {_month(number): _NOTHING for number in range(first, last + 1)}
    for month, cost in by_month.items():
        number = numbers[month]
        name = "no date" if number is None else month if number >= first else f"before {_month(first)}"
        rows[name] = rows.get(name, _NOTHING).plus(cost)
    order = sorted(
        rows.items(), key=lambda row: (row[0] == "no date", not row[0].startswith("before"), row[0])
    )
    drawn = charts.bars([(name, cost.energy_wh) for name, cost in order])
    return [(bar, cost) for bar, (_, cost) in zip(drawn, order, strict=True)]


def _number(month: str) -> int | None:
    """Months since the year 0; None for a month that no calendar has: another program has written it."""
    year, _, number = month.partition("-")
    return 12 * int(year) + int(number) - 1 if 1 <= int(number) <= 12 else None


def _month(number: int) -> str:
    return f"{number // 12:04}-{number % 12 + 1:02}"


def _amortised(report: Report) -> Amortised | None:
    """The energy of inference up to each day; None without training or inference."""
    days = [(ordinal, day) for day in report.amortisation if (ordinal := _ordinal(day.day)) is not None]
    training = report.by_stage.get(TRAINING)
    if training is None or training.energy_wh <= 0 or len(days) < 2:
        return None
    first, last = days[0][0], days[-1][0]
    most = max(days[-1][1].inference_wh, training.energy_wh) * _ABOVE

    def x(ordinal: int) -> float:
        return charts.between(ordinal + 1, first, last + 1)

    points = [
        (0.0, 0.0),
        *((x(place), 100 * day.inference_wh / most) for place, day in _evenly(days, _MOST_POINTS)),
    ]
    scale = charts.energy_scale([most])
    passed = _ordinal(report.passed_training or "")
    return Amortised(
        line=" ".join(f"{across:.2f},{100 - up:.2f}" for across, up in points),
        training=100 * training.energy_wh / most,
        passed=None if passed is None else x(passed),
        days=[charts.Mark(place, days[end][1].day) for place, end in ((0.0, 0), (100.0, -1))],
        energies=charts.ticks(most, scale),
        unit=scale.name,
        table=[(*day, day.inference_wh / training.energy_wh) for _, day in _evenly(days, _DAYS_IN_TABLE)],
    )


def _ordinal(day: str) -> int | None:
    """The number of a day; None for one that no calendar has."""
    try:
        return date.fromisoformat(day).toordinal()
    except ValueError:
        return None


def _evenly(days: Sequence[_Day], most: int) -> list[_Day]:
    """At most that many days, evenly spaced, with the first and the last."""
    if len(days) <= most:
        return list(days)
    return [days[round(place * (len(days) - 1) / (most - 1))] for place in range(most)]


def _places(where: Where | None) -> list[PlaceRow]:
    return [] if where is None else rows_of(where.regions[:_MOST_PLACES])


def _beside(report: Report) -> dict[str, Any]:
    """Embodied carbon and the emissions of the entries that have it, on one axis but in no sum."""
    beside = report.beside
    known = [entry for entry in report.entries if entry.beside.embodied is not None]
    total = total_of(known)
    if beside.embodied_g is None:
        return {"drawn": []}
    made = beside.embodied_g, beside.embodied_low_g or 0.0, beside.embodied_high_g or 0.0
    drawn = charts.ranges([(total.emissions_g, total.low_g, total.high_g), made])
    return {"drawn": drawn, "operational_g": total.emissions_g, "entries": len(known)}


def _slowest(entry: Entry) -> list[Any]:
    """The ranks of a run; of many, those that wait least for the others."""
    if len(entry.ranks) <= _MOST_RANKS:
        return list(entry.ranks)
    return sorted(entry.ranks, key=lambda each: (each.step_wait_s or 0.0, -each.train_s))[:_MOST_RANKS]


def _period(entries: Sequence[Entry]) -> tuple[str, str]:
    """The first and the last day with energy."""
    days = [day for entry in entries for day in entry.when(len("2026-11-24"))]
    return min(days), max(days)


def _notes(report: Report) -> list[tuple[str, Sequence[str]]]:
    """What a reader has to know of the sums, each with its lines; the last line counts those left out."""
    notes: list[tuple[str, Sequence[str]]] = [
        ("Lower bounds", report.lower_bounds),
        ("Prepared in another experiment", report.prepared_elsewhere),
        ("Not measured, and not in the sums", report.unmeasured),
        ("Unreadable, and not in the sums", report.unreadable),
    ]
    return [(title, _first(lines)) for title, lines in notes if lines]


def _first(lines: Sequence[str]) -> list[str]:
    more = len(lines) - _MOST_LINES
    return [*lines[:_MOST_LINES], f"and {more:,} more"] if more > 0 else list(lines)


def _sources(entries: Iterable[Entry]) -> list[tuple[str, ...]]:
    """The provenance of the figures, without repetitions."""
    rows = dict.fromkeys(
        tuple(
            ", ".join(filter(None, (entry.tags.get(f"carbon.{tag}", "") for tag in tags)))
            for tags in _SOURCES.values()
        )
        for entry in entries
    )
    return _first_rows(list(rows))


def _first_rows(rows: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    more = len(rows) - _MOST_LINES
    return [*rows[:_MOST_LINES], (f"and {more:,} more", *[""] * (len(_SOURCES) - 1))] if more > 0 else rows

"""A footprint for people: one line, the card of a notebook, and rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from carbon_otel.notebook.card import Card, Figure, Row, co2e, html, share
from carbon_otel.quantities import duration, energy
from carbon_otel.records import RUN, UNATTRIBUTED, Cost
from carbon_otel.units import J_PER_WH

if TYPE_CHECKING:
    from carbon_otel.footprint import Footprint

# The time between the cells of a notebook, which `notebook.between_cells` takes out of the two others.
BETWEEN_CELLS: Final = "between_cells"
# Kinds that no stage of the user has, as people read them.
NAMES: Final = {
    UNATTRIBUTED: "outside of stages",
    RUN: "runs, outside of stages",
    BETWEEN_CELLS: "between cells",
}
_WHOLE: Final = 1.0


def summary(footprint: Footprint) -> str:
    """One line: energy with its band, emissions, the measured share, the duration, and what is not in it."""
    if math.isnan(footprint.energy_j):
        return "not measured: call carbon_otel.instrument() before it"
    lacks = f", without {', '.join(footprint.missing)}" if footprint.missing else ""
    return (
        f"{energy(footprint.energy_j, footprint.low_j, footprint.high_j)}, "
        f"{co2e(footprint.emissions_g)}, {measured(footprint.measured_fraction)}, "
        f"{duration(footprint.duration_s)}{lacks}"
    )


def text_of(footprint: Footprint) -> str:
    """A line for the whole, and one for each kind of stage."""
    rows = rows_of_kinds(footprint)
    texts = [
        (
            row.name,
            energy(row.energy_j),
            f"{co2e(row.emissions_g)}",
            share(row.energy_j, footprint.energy_j),
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    lines = [
        "  ".join([name.ljust(widths[0]), *(map(str.rjust, figures, widths[1:]))]) for name, *figures in texts
    ]
    return "\n".join([summary(footprint), *(f"  {line}" for line in lines)])


def measured(fraction: float) -> str:
    """The measured share as text."""
    return f"{share(fraction, _WHOLE) or '0%'} measured"


def html_of(footprint: Footprint, title: str = "") -> str:
    """The footprint as a fragment of HTML."""
    return html(card(footprint, title))


def card(footprint: Footprint, title: str = "") -> Card:
    """The card of a footprint."""
    if math.isnan(footprint.energy_j):
        return Card(title, facts=("Not measured: call carbon_otel.instrument() before it.",))
    rows = rows_of_kinds(footprint) if footprint.stages else _rows_of_components(footprint)
    return Card(
        title,
        energy=Figure(footprint.energy_j, footprint.low_j, footprint.high_j),
        emissions=Figure(footprint.emissions_g, footprint.low_g, footprint.high_g),
        texts=(duration(footprint.duration_s),),
        of="stage",
        legend=not footprint.stages,
        rows=rows,
        facts=tuple(facts(footprint)),
        more=tuple(details(footprint)),
    )


def facts(footprint: Footprint) -> Iterator[str]:
    """What has to be known with the figures: provenance, figures per unit, and what is not in them."""
    grid = footprint.intensity
    priced = "several grids" if grid is None else f"grid {grid.zone} {grid.year}, {grid.g_per_kwh:.3g} g/kWh"
    pue = f" · PUE {footprint.pue:.3g}" if footprint.pue != _WHOLE else ""
    yield f"{measured(footprint.measured_fraction)} by a sensor · {priced}{pue}"
    for unit, cost in footprint.per_unit.items():
        amount = f"{footprint.units[unit]:,.10g}"
        yield f"{energy(cost.energy_j)} and {co2e(cost.emissions_g)} for each of {amount} {unit}"
    if footprint.missing:
        yield f"Not in the figures: {', '.join(footprint.missing)}, which could not be read."
    if "not_measured" in footprint.flags:
        yield "A part was not measured: the figures are a lower bound."


def details(footprint: Footprint) -> Iterator[tuple[str, str]]:
    """Names and texts of what is asked for less often."""
    yield "method", footprint.method.replace("+", ", ")
    for device, joules in footprint.devices_inclusive.items():
        yield device, energy(joules)
    grid = footprint.intensity
    if grid is not None:
        yield "intensity", f"{grid.name}, {grid.signal}; {grid.source}"
    yield "PUE", f"{footprint.pue:.3g}" + (f" ({footprint.pue_source})" if footprint.pue_source else "")
    if footprint.region:
        yield "region", footprint.region
    if footprint.embodied is not None:
        made = footprint.embodied
        yield "embodied", f"{co2e(made.g, made.low_g, made.high_g)}, not in the emissions"
    elif footprint.embodied_unknown:
        yield "embodied", f"unknown for {', '.join(footprint.embodied_unknown)}"
    if footprint.market is not None:
        yield "market-based", f"{co2e(footprint.market.g)}, beside the emissions"
    if footprint.water is not None:
        water = footprint.water
        yield "water", f"{water.litres:.3g} L ({water.low:.3g} to {water.high:.3g})"
    if footprint.gap_s:
        yield "gaps", f"{duration(footprint.gap_s)} of a device without a reading"
    if footprint.flags:
        yield "flags", ", ".join(footprint.flags)


def rows_of_kinds(footprint: Footprint) -> list[Row]:
    """The kinds of stage by energy, and then what was outside of stages."""
    own = [each for each in footprint.stages.items() if each[0] not in NAMES]
    ordered = sorted(own, key=lambda each: -each[1].energy_j)
    found = [Row(kind.replace("_", " "), *cost) for kind, cost in ordered]
    found += [
        Row(NAMES[kind], *footprint.stages[kind], quiet=True) for kind in NAMES if kind in footprint.stages
    ]
    rest = _rest(footprint)
    if rest.energy_j > 1e-6 * footprint.energy_j:
        found.append(Row("not by kind", *rest, quiet=True))
    return found


def rows(footprint: Footprint) -> list[dict[str, Any]]:
    """One flat row for each kind of stage, or one for all where the kinds are not known."""
    kinds = dict(footprint.stages) or {"": Cost(footprint.energy_j, footprint.emissions_g)}
    by_kind = {} if footprint.embodied is None else footprint.embodied.by_kind
    whole_g = footprint.embodied_g
    return [
        {
            "stage": kind,
            "energy_wh": cost.energy_j / J_PER_WH,
            "emissions_g": cost.emissions_g,
            "share": cost.energy_j / footprint.energy_j if footprint.energy_j > 0 else math.nan,
            "method": footprint.method,
            "zone": "" if footprint.intensity is None else footprint.intensity.zone,
            "embodied_g": by_kind.get(kind) if kind else whole_g,
        }
        for kind, cost in kinds.items()
    ]


def _rest(footprint: Footprint) -> Cost:
    """What the kinds do not contain, in a sum that has stages among its parts."""
    return Cost(
        footprint.energy_j - sum(cost.energy_j for cost in footprint.stages.values()),
        footprint.emissions_g - sum(cost.emissions_g for cost in footprint.stages.values()),
    )


def _rows_of_components(footprint: Footprint) -> list[Row]:
    """The components by energy."""
    return [Row(*each) for each in sorted(footprint.components.items(), key=lambda each: -each[1])]

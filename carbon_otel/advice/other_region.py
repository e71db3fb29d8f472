"""The same energy in another cloud region: `carbon-otel where`, which compares like with like only."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from carbon_otel.advice.amounts import emissions_of
from carbon_otel.advice.subject import Subject
from carbon_otel.advice.words import Advice, NothingFound
from carbon_otel.lifecycle.total import Total
from carbon_otel.lifecycle.where import Elsewhere, Here, where_of

NAME: Final = "other region"
_ANYWHERE: Final = "gcp:us-central1"


def look(subject: Subject) -> Advice | NothingFound:
    """Find the region that is cleaner than here beyond the bands of grid and PUE."""
    try:
        found = where_of(subject.ledger)
    except ValueError as error:
        return NothingFound(NAME, str(error), lacking=True)
    here, of = found.here, subject.report.total
    if here is None:
        command = subject.command("where", subject.name, "--here", _ANYWHERE)
        return NothingFound(NAME, f"{found.why_not_here}; such as {command}", lacking=True)
    cleaner = [
        (each, saved)
        for each in found.regions
        if each.difference == "less" and (saved := _saved(here, each, of)).low_g > 0
    ]
    if not cleaner:
        reason = (
            f"beyond the bands of grid and PUE, none of {len(found.regions)} cloud regions emits less than"
        )
        return NothingFound(NAME, f"{reason} {here.name}")
    best, saved = cleaner[0]
    near = min((each for each, _ in cleaner if each.distance_km is not None), key=_distance, default=None)
    finding = [
        f"{best.region} ({best.place}): {best.g_per_kwh:.0f} g/kWh and PUE {best.pue:.2f}, against "
        f"{here.g_per_kwh:.0f} g/kWh and PUE {here.pue:.2f} at {here.name}: {emissions_of(saved)} CO2e less",
        f"{len(cleaner)} of {len(found.regions)} regions emit less beyond the bands; the energy is the same",
    ]
    if near is not None:
        finding.append(f"the nearest of them is {near.region}, {near.distance_km:.0f} km away")
    return Advice(
        name=NAME,
        lever="map",
        title=f"run it in {best.region}",
        verdict="saves",
        saved=saved,
        of=replace(of, emissions_g=here.emissions_g, low_g=here.low_g, high_g=here.high_g),
        finding=tuple(finding),
        source=f"{found.signal}; yearly means of {found.year} for both places ({found.source})",
        verify="where the data may be, and how long the way to its users may take",
        command=subject.command("where", subject.name),
    )


def _distance(region: Elsewhere) -> float:
    return region.distance_km or 0.0


def _saved(here: Here, there: Elsewhere, of: Total) -> Total:
    """The grams saved. The energy is the same in both places, so its error is in neither of their factors."""
    below, above = 1 - of.low_wh / of.energy_wh, of.high_wh / of.energy_wh - 1
    here_low, here_high = _factor(here, below, above)
    there_low, there_high = _factor(there, below, above)
    return Total(
        0.0,
        0.0,
        0.0,
        here.emissions_g - there.emissions_g,
        max(0.0, here_low - there_high) * (1 - below),
        min(here.high_g, (here_high - there_low) * (1 + above)),  # not more than there is
    )


def _factor(place: Here | Elsewhere, below: float, above: float) -> tuple[float, float]:
    """The band of the emissions by grid and PUE alone; that of the energy is in it in quadrature."""
    grams = place.emissions_g
    low, high = 1 - place.low_g / grams, place.high_g / grams - 1
    return (
        grams * (1 - math.sqrt(max(0.0, low**2 - below**2))),
        grams * (1 + math.sqrt(max(0.0, high**2 - above**2))),
    )

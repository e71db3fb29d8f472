"""Embodied carbon beside the emissions of operation, and what a longer life of the hardware would change."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from carbon_otel.advice.subject import Subject
from carbon_otel.advice.words import Advice, NothingFound
from carbon_otel.lifecycle.total import Total
from carbon_otel.quantities import emissions
from carbon_otel.records import RUN

NAME: Final = "embodied carbon"


def look(subject: Subject) -> Advice | NothingFound:
    """Spread the embodied carbon over one more year."""
    beside, of = subject.report.beside, subject.report.total
    grams, low_g, high_g = beside.embodied_g, beside.embodied_low_g, beside.embodied_high_g
    years = {each.lifetime_years for each in subject.ledger.entries} - {None}
    if grams is None or low_g is None or high_g is None or not years:
        return NothingFound(
            NAME, "the embodied carbon of the hardware is unknown: set embodied_kg", lacking=True
        )
    if grams <= 0:
        return NothingFound(NAME, "no embodied carbon was charged")
    # The shortest life gains most by a year, so this is the least that all together gain.
    longest = max(year for year in years if year is not None)
    gained = 1 / (longest + 1)
    between = beside.embodied_by_stage.get(RUN, 0.0)
    unknown = len(beside.embodied_unknown)
    return Advice(
        name=NAME,
        lever="machine",
        title=f"use the hardware for {longest + 1:g} years instead of {longest:g}",
        verdict="saves",
        saved=Total(0.0, 0.0, 0.0, gained * grams, gained * low_g, gained * high_g),
        of=replace(of, emissions_g=grams, low_g=low_g, high_g=high_g),
        finding=(
            f"making the hardware is {grams / (grams + of.emissions_g):.0%} of {emissions(grams)} embodied and "
            f"{emissions(of.emissions_g)} operational CO2e"
            + (f"; it is unknown for {unknown} of {len(subject.ledger.entries)} entries" if unknown else ""),
            f"{between / grams:.0%} of it was reserved while no stage was open; fewer reserved hours save it",
        ),
        source="embodied carbon of the reserved time, by the tables of the hardware",
        verify="how long the hardware is kept, as a setting of the measurement: lifetime_years",
        command=subject.command("report", subject.name),
        counted="embodied",
    )

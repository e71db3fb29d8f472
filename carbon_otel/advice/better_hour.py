"""A better hour for the next run like the most costly one, by the forecast of a provider."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from carbon_otel.advice.amounts import energy_of, whole
from carbon_otel.advice.subject import Subject
from carbon_otel.advice.words import Advice, NothingFound
from carbon_otel.intensity.service import Unavailable
from carbon_otel.intensity.timing import saved_g
from carbon_otel.lifecycle.by_hour import when
from carbon_otel.lifecycle.total import Total
from carbon_otel.mlflow.schema import names
from carbon_otel.units import KILO

NAME: Final = "better hour"


def look(subject: Subject) -> Advice | NothingFound:
    """Ask the provider when the next hours are cleanest."""
    measured = [each for each in subject.attempts if each.entry.energy_wh > 0]
    if not measured:
        return NothingFound(NAME, "there is no run whose hours could be moved")
    run = max(measured, key=lambda each: each.entry.energy_wh)
    if subject.provider is None:
        command = subject.command("when", run.run_id, "--provider", "uk")
        return NothingFound(
            NAME, f"no provider of intensities by the hour was named; such as {command}", lacking=True
        )
    provider = subject.provider
    try:
        entry, best = when(subject.histories.client.get_run(run.run_id), provider, subject.now)
    except (LookupError, ValueError, Unavailable) as error:
        return NothingFound(NAME, str(error), lacking=True)
    grams = saved_g(best, entry.energy_wh, names.pue(entry.tags))
    if grams <= 0:
        return NothingFound(NAME, f"no start in the next 24 hours is better than now ({provider.name})")
    now_g = entry.energy_wh / KILO * names.pue(entry.tags) * best.now.g_per_kwh
    energy = whole(entry)
    return Advice(
        name=NAME,
        lever="map",
        title=f"start the next run like {run.name} at {best.best.at:%Y-%m-%d %H:%M} UTC",
        verdict="saves" if best.is_worth_waiting else "cannot be told apart",
        saved=Total(0.0, 0.0, 0.0, grams, now_g * best.saving_low, now_g * best.saving_high),
        of=replace(energy, emissions_g=now_g, low_g=now_g, high_g=now_g),
        finding=(f"for {energy_of(energy)}: {best.verdict}",),
        source=f"{best.source} ({best.signal}), and the energy of the run by quarter-hour",
        verify="the run priced by the hours in which it ran",
        command=subject.command("reprice", run.run_id, "--provider", subject.provider_name),
        counted="avoided" if best.signal.kind == "marginal" else "operational",
    )

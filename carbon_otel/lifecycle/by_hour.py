"""When a run has used its energy, and what it has emitted by the hours of its grid."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from carbon_otel.carbon.intensity import AVERAGE, WORLD
from carbon_otel.intensity.pricing import Priced, Use, price, require_footprint
from carbon_otel.intensity.provider import Provider
from carbon_otel.intensity.timing import BestStart, best_start
from carbon_otel.lifecycle.entry import Entry
from carbon_otel.lifecycle.ledger import NotFound
from carbon_otel.mlflow.schema import by_hour, hourly, names
from carbon_otel.mlflow.schema.places import Place
from carbon_otel.provenance import quadrature
from carbon_otel.units import MS_PER_S

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_COUNTRY: Final = len("FR")
_COUNTRIES: Final = {"UK": "GB"}


@dataclass(frozen=True, slots=True)
class Repriced:
    """The emissions of a run by the hour, beside its yearly figure.

    Attributes:
        priced: the emissions by the hour.
        low_g, high_g: their band, with that of the energy.
        provider: the provider of the intensities.
        yearly_g: emissions of the same energy as logged: by the mean of a year, unless the run followed its grid.
        logged_signal: what those count.
        comparable: whether both count the same.
        lower_bound: the reason why the run may have used more; None if its figures are complete.
    """

    run_id: str
    name: str
    priced: Priced
    low_g: float
    high_g: float
    provider: str
    yearly_g: float
    logged_signal: str
    comparable: bool
    lower_bound: str | None

    def metrics(self) -> dict[str, float]:
        """The metrics of the run with this figure."""
        return by_hour.metrics(self.priced, self.low_g, self.high_g)

    def tags(self) -> dict[str, str]:
        """The tags of the run with its provenance."""
        return by_hour.tags(self.priced, self.provider)


def uses_of(entry: Entry) -> list[Use]:
    """The energy of an entry, without its nested runs, by quarter-hour or, for a long run, by hour or day.

    Raises:
        ValueError: if no times are known.
    """
    return _uses(entry.tags.get(names.HOURLY, ""), entry.name)


def _uses(text: str, name: str) -> list[Use]:
    uses = []
    for when, wh in sorted(hourly.parsed(text).items()):
        try:
            uses.append(Use(*hourly.interval(when), max(0.0, wh)))
        except ValueError:  # a date that no calendar has: another program has written it
            continue
    if not any(use.wh > 0 for use in uses):
        raise ValueError(f"{name} has no times of its energy")
    return uses


def reprice(run: Run, provider: Provider, zone: str | None = None) -> Repriced:
    """Price a run by the hours of its grid. Nothing is written.

    Of a run at several places, those in the zone are priced, and the rest of its energy counts as without a value.

    Args:
        run: a run of MLflow.
        provider: gives the intensities.
        zone: the zone as the provider names it, by default that of the run.

    Raises:
        NotFound: for a run that was not measured.
        ValueError: for a run without times or without a zone, another country than that of the run, or intensities
            that no footprint is made of.
        Unavailable: if the provider has no values.
    """
    entry, all_uses = _measured(run)
    require_footprint(provider.signal)
    zone = _zone_of(entry, zone)
    stays = [place for place in entry.places if len(entry.places) == 1 or _is_in(place, zone)]
    uses = [_uses(place.hourly, entry.name) for place in stays]
    start, end = min(each[0].start for each in uses), max(use.end for each in uses for use in each)
    values = provider.history(zone, start, end)
    parts = [price(each, values, names.pue(place.tags)) for place, each in zip(stays, uses, strict=True)]
    priced = _together(parts, sum(use.wh for use in all_uses))
    logged = ", ".join(dict.fromkeys(place.tags.get(names.SIGNAL, str(AVERAGE)) for place in stays))
    if not priced.values:
        raise ValueError(f"{provider.name} has no value of {zone} for the times of {entry.name}")
    energy = entry.energy_wh or 1.0
    grams = priced.emissions_g or 1.0
    return Repriced(
        run_id=entry.run_id,
        name=entry.name,
        priced=priced,
        low_g=max(0.0, grams * (1 - quadrature((1 - entry.low_wh / energy, 1 - priced.low_g / grams)))),
        high_g=grams * (1 + quadrature((entry.high_wh / energy - 1, priced.high_g / grams - 1))),
        provider=provider.name,
        yearly_g=sum(place.emissions_g * part.share for place, part in zip(stays, parts, strict=True)),
        logged_signal=logged,
        comparable=str(provider.signal) == logged,
        lower_bound=entry.lower_bound,
    )


def save(client: MlflowClient, run: Run, repriced: Repriced) -> bool:
    """Write the figure to its run, beside the yearly one; False if the run has it already.

    Raises the errors of the store.
    """
    from mlflow.entities import Metric, RunTag

    figures, provenance = repriced.metrics(), repriced.tags()
    if by_hour.is_written(figures, provenance, run.data.metrics, run.data.tags):
        return False
    now_ms = int(time.time() * MS_PER_S)
    client.log_batch(
        run.info.run_id,
        metrics=[Metric(name, value, now_ms, 0) for name, value in figures.items()],
        tags=[RunTag(name, value) for name, value in provenance.items()],
    )
    return True


def when(
    run: Run, provider: Provider, now: datetime, hours: float = 24.0, zone: str | None = None
) -> tuple[Entry, BestStart]:
    """The best start for a run like this one in the next hours.

    Raises what `reprice` raises, and ValueError if the forecast does not cover the run. Marginal intensities are
    accepted, since they may rank hours.
    """
    entry, uses = _measured(run)
    length = max(use.end for use in uses) - uses[0].start
    values = provider.forecast(zone or _zone_of(entry), timedelta(hours=hours) + length)
    return entry, best_start(uses, values, now, hours)


def _measured(run: Run) -> tuple[Entry, list[Use]]:
    entry = Entry.of(run)
    if entry is None:
        raise NotFound(f"run {run.info.run_id} was not measured")
    return entry, uses_of(entry)


def _zone_of(entry: Entry, named: str | None = None) -> str:
    """The zone whose intensities price an entry: the named one, if it is in the same country, else the run's."""
    own = entry.tags.get("carbon.zone", WORLD)
    zones = dict.fromkeys(place.tags.get("carbon.zone", WORLD) for place in entry.places)
    if named is None:
        if len(zones) > 1:
            first = next(iter(zones))
            raise ValueError(f"{entry.name} has run in {own}; name the part to price: --zone {first}")
        if own == WORLD:
            raise ValueError(f"{entry.name} has no zone; name one: --zone FR")
        return own
    if len(zones) > 1:
        if not any(_is_in(place, named) for place in entry.places):
            raise ValueError(f"{entry.name} has run in {own}, so it is not priced by the grid of {named}")
        return named
    country = _COUNTRIES.get(named.upper(), named.upper())
    if own != WORLD and len(country) == _COUNTRY and country != own[:_COUNTRY]:
        raise ValueError(f"{entry.name} has run in {own}, so it is not priced by the grid of {named}")
    return named


def _is_in(place: Place, zone: str) -> bool:
    """Whether the grid of a zone is that of a place, as far as their countries say."""
    own, country = place.tags.get("carbon.zone", WORLD), _COUNTRIES.get(zone.upper(), zone.upper())
    return own == zone or (len(country) == _COUNTRY and country == own[:_COUNTRY])


def _together(parts: Sequence[Priced], total_wh: float) -> Priced:
    """The sum of the priced parts of `total_wh`."""
    values = {value.start: value for part in parts for value in part.values}
    return Priced(
        emissions_g=sum(part.emissions_g for part in parts),
        low_g=sum(part.low_g for part in parts),
        high_g=sum(part.high_g for part in parts),
        priced_wh=sum(part.priced_wh for part in parts),
        total_wh=total_wh,
        values=tuple(value for _, value in sorted(values.items())),
    )

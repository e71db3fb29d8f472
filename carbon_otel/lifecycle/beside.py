"""What stands beside the emissions of a ledger and is never added: embodied carbon, market-based, water."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from carbon_otel.carbon.regions import regions
from carbon_otel.carbon.water import WaterFactor, water_factor
from carbon_otel.mlflow.schema import names
from carbon_otel.mlflow.schema.checked import amount
from carbon_otel.mlflow.schema.places import Place
from carbon_otel.units import J_PER_WH, KILO

if TYPE_CHECKING:
    from carbon_otel.lifecycle.entry import Entry

INFERENCE: Final = "inference"
_WATER: Final = (names.WATER_L, "carbon/water_low_l", "carbon/water_high_l")


@dataclass(frozen=True, slots=True)
class EntryBeside:
    """The figures of one entry, without its nested runs.

    Attributes:
        embodied: grams of making the hardware by kind of stage; None if they are unknown.
        embodied_low_g, embodied_high_g: the band of their sum.
        market_g: market-based grams; None if no intensity was given.
        water_l: litres with their band, as the run has logged them; None if it has not.
    """

    embodied: Mapping[str, float] | None = None
    embodied_low_g: float = 0.0
    embodied_high_g: float = 0.0
    market_g: float | None = None
    water_l: tuple[float, float, float] | None = None

    @property
    def embodied_g(self) -> float | None:
        """The sum over the stages; None if it is unknown."""
        return None if self.embodied is None else sum(self.embodied.values())


NOTHING_BESIDE: Final = EntryBeside()


@dataclass(frozen=True, slots=True)
class Beside:
    """The sums of a report. What is unknown is None, never 0.

    Attributes:
        embodied_g: grams of making the hardware, for reserved time; None if no entry has them.
        embodied_low_g, embodied_high_g: its band: the entries share the tables' errors.
        embodied_by_stage: the same by kind of stage.
        embodied_unknown: the names of the entries without them, which the sums leave out.
        sci: grams of emissions and of embodied carbon for one functional unit of inference, over the entries that
            have both (SCI, ISO/IEC 21031).
        market_g: market-based grams; None if no entry has them.
        market_unknown: the names of the entries without them, if others have them.
        water_l: litres with their band; None unless they are asked for.
    """

    embodied_g: float | None
    embodied_low_g: float | None
    embodied_high_g: float | None
    embodied_by_stage: Mapping[str, float]
    embodied_unknown: tuple[str, ...]
    sci: Mapping[str, float]
    market_g: float | None
    market_unknown: tuple[str, ...]
    water_l: tuple[float, float, float] | None

    def as_dict(self) -> dict[str, Any]:
        """In plain types; figures that were not asked for are absent."""
        figures: dict[str, Any] = {
            "embodied_g": self.embodied_g,
            "embodied_low_g": self.embodied_low_g,
            "embodied_high_g": self.embodied_high_g,
            "embodied_by_stage": dict(self.embodied_by_stage),
            "embodied_unknown": list(self.embodied_unknown),
            "sci_g_per_1000": {unit: grams * KILO for unit, grams in self.sci.items()},
        }
        if self.market_g is not None:
            figures |= {"market_g": self.market_g, "market_unknown": list(self.market_unknown)}
        if self.water_l is not None:
            figures |= dict(zip(("water_l", "water_low_l", "water_high_l"), self.water_l, strict=True))
        return figures


def read(figures: Mapping[str, float], kinds: Iterable[str], share: float) -> EntryBeside:
    """The figures of a run; `share` is the share of its energy without that of its nested runs.

    Raises Unreadable.
    """
    embodied: dict[str, float] | None = None
    low_g = high_g = 0.0
    if names.embodied_is_known(figures):
        embodied = {kind: names.own_of_kind(figures, kind, "embodied_g") for kind in kinds}
        own_g, total_g = sum(embodied.values()), amount(figures, names.EMBODIED_G)
        part = min(1.0, own_g / total_g) if total_g > 0 else 0.0
        # Any program may have changed these figures: a band contains its figure.
        low_g = min(own_g, amount(figures, names.EMBODIED_LOW_G) * part)
        high_g = max(own_g, amount(figures, names.EMBODIED_HIGH_G) * part)
    market_g = None
    if names.covers_all(figures, names.MARKET_WH) and names.MARKET_G in figures:
        market_g = amount(figures, names.MARKET_G) * share
    water = None
    if names.covers_all(figures, names.WATER_WH) and all(name in figures for name in _WATER):
        value, low, high = (amount(figures, name) * share for name in _WATER)
        water = value, min(value, low), max(value, high)
    return EntryBeside(embodied, low_g, high_g, market_g, water)


def beside_of(entries: Sequence[Entry], *, water: bool) -> Beside:
    """The sums over some entries; litres only if they are asked for."""
    known = [entry for entry in entries if entry.beside.embodied is not None]
    priced = [entry for entry in entries if entry.beside.market_g is not None]
    by_stage: dict[str, float] = {}
    for entry in known:
        for kind, grams in (entry.beside.embodied or {}).items():
            by_stage[kind] = by_stage.get(kind, 0.0) + grams

    def sum_of(figure: Callable[[EntryBeside], float | None]) -> float | None:
        return sum(figure(entry.beside) or 0.0 for entry in known) if known else None

    return Beside(
        embodied_g=sum_of(lambda each: each.embodied_g),
        embodied_low_g=sum_of(lambda each: each.embodied_low_g),
        embodied_high_g=sum_of(lambda each: each.embodied_high_g),
        embodied_by_stage=by_stage,
        embodied_unknown=tuple(entry.name for entry in entries if entry.beside.embodied is None),
        sci=_sci(known),
        market_g=sum(entry.beside.market_g or 0.0 for entry in priced) if priced else None,
        market_unknown=tuple(entry.name for entry in entries if entry.beside.market_g is None)
        if priced
        else (),
        water_l=_sum(map(water_of, entries)) if water else None,
    )


def water_of(entry: Entry) -> tuple[float, float, float]:
    """The litres of an entry with their band: as logged, else by its zone, its region and its PUE."""
    if entry.beside.water_l is not None:
        return entry.beside.water_l
    return _sum(map(_water_at, entry.places))


def _water_at(place: Place) -> tuple[float, float, float]:
    site = regions().get(place.tags.get(names.REGION, ""))
    wue = None if site is None else site.water_l_per_kwh
    factor: WaterFactor = water_factor(place.tags.get("carbon.zone", ""), names.pue(place.tags), wue)
    return factor.of(place.energy_wh * J_PER_WH)[:3]


def _sum(amounts: Iterable[tuple[float, float, float]]) -> tuple[float, float, float]:
    value = low = high = 0.0
    for each in amounts:
        value, low, high = value + each[0], low + each[1], high + each[2]
    return value, low, high


def _sci(entries: Iterable[Entry]) -> dict[str, float]:
    """Grams per unit of inference; other stages count different things in units of the same name."""
    counts: dict[str, float] = {}
    grams: dict[str, float] = {}
    for entry in entries:
        cost = entry.stages.get(INFERENCE)
        made = (entry.beside.embodied or {}).get(INFERENCE, 0.0)
        for unit, count in entry.units.items():
            kind, _, name = unit.partition("/")
            if kind == INFERENCE and count > 0 and cost is not None:
                counts[name] = counts.get(name, 0.0) + count
                grams[name] = grams.get(name, 0.0) + cost.emissions_g + made
    return {name: grams[name] / count for name, count in counts.items()}

"""Where the energy of a run was used. A run that is resumed elsewhere has several places, with unlike emissions.

What is said of such a run names them all, so that no figure of it passes for one of a single grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from carbon_otel.mlflow.schema import checked, hourly

ZONE: Final = "carbon.zone"
PUE: Final = "carbon.pue"
_INTENSITY: Final = "carbon.intensity_g_per_kwh"
# Two parts of a run with the same of these are at one place.
_ALIKE: Final = (ZONE, PUE, "carbon.intensity_signal", "carbon.region", "carbon.lifetime_years")
_TAGS: Final = (*_ALIKE, _INTENSITY, "carbon.pue_source")


class Place(NamedTuple):
    """Watt-hours and grams at one place, with the provenance of the grams and the times of the energy."""

    tags: Mapping[str, str]
    energy_wh: float
    emissions_g: float
    hourly: str

    @property
    def key(self) -> tuple[str, ...]:
        """Equal for parts at the same place."""
        return tuple(self.tags.get(name, "") for name in _ALIKE)

    def as_dict(self) -> dict[str, Any]:
        """The place as JSON types."""
        return {
            "tags": dict(self.tags),
            "wh": self.energy_wh,
            "g": self.emissions_g,
            "hourly": self.hourly,
        }


def tags_of(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags that say where energy was used."""
    return {name: tags[name] for name in _TAGS if name in tags}


def of(parts: Iterable[Place]) -> tuple[Place, ...]:
    """The places of these parts, each once."""
    found: dict[tuple[str, ...], Place] = {}
    for part in parts:
        known = found.get(part.key)
        if known is not None:
            part = Place(
                part.tags,
                known.energy_wh + part.energy_wh,
                known.emissions_g + part.emissions_g,
                hourly.added(known.hourly, part.hourly),
            )
        found[part.key] = part
    # A process that has opened the run and used nothing yet has no part in its emissions.
    used = tuple(place for place in found.values() if place.energy_wh > 0)
    return used or tuple(found.values())[:1]


def mixed(places: Sequence[Place]) -> dict[str, str]:
    """The tags of a run at several places: what differs, joined, and the mean PUE of its energy. Empty for one."""
    if len(places) < 2:
        return {}
    joined: dict[str, str] = {}
    for name in _TAGS:
        values = list(dict.fromkeys(place.tags.get(name, "unknown") for place in places))
        if len(values) > 1:
            joined[name] = ", ".join(values)
    if PUE in joined:
        total = sum(place.energy_wh for place in places)
        joined[PUE] = f"{sum(pue(place) * place.energy_wh for place in places) / total:.12g}"
    return joined


def pue(place: Place) -> float:
    """Power usage effectiveness of a place. Raises Unreadable."""
    return checked.pue_in(place.tags.get(PUE, "1"))


def parsed(content: object) -> tuple[Place, ...] | None:
    """The inverse of `as_dict` for several places; None if it is something else."""
    if not isinstance(content, list):
        return None
    found = []
    for each in content:
        if not isinstance(each, dict):
            return None
        tags, text = checked.texts(each.get("tags")), each.get("hourly")
        amounts = checked.numbers({name: each.get(name) for name in ("wh", "g")})
        if tags is None or not isinstance(text, str) or amounts is None or len(amounts) < 2:
            return None
        if not all(map(checked.is_amount, amounts.values())):
            return None
        found.append(Place(tags_of(tags), max(0.0, amounts["wh"]), max(0.0, amounts["g"]), text))
    return tuple(found)

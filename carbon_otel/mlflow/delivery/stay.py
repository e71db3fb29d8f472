"""Where and when a segment has used its energy, also if its run moves to another grid in the middle of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from carbon_otel.mlflow.schema import hourly, places
from carbon_otel.mlflow.schema.hourly import Quarters
from carbon_otel.mlflow.schema.places import Place


@dataclass(slots=True)
class _Stay:
    quarters: Quarters
    tags: Mapping[str, str] | None = None
    wh: float = 0.0
    grams: float = 0.0

    def place(self) -> Place:
        return Place(self.tags or {}, max(0.0, self.wh), max(0.0, self.grams), self.quarters.text())


class Stays:
    """The stays of one segment, one after another. `wall_s` is its start in seconds since the epoch."""

    def __init__(self, wall_s: float) -> None:
        self._wall_s = wall_s
        self._elapsed_s = 0.0
        self._stays = [_Stay(Quarters(wall_s))]

    def at(self, tags: Mapping[str, str]) -> None:
        """The energy from now on is used where these tags of the run say."""
        here, stay = places.tags_of(tags), self._stays[-1]
        if stay.tags is not None and Place(stay.tags, 0, 0, "").key != Place(here, 0, 0, "").key:
            stay = _Stay(Quarters(self._wall_s, self._elapsed_s))
            self._stays.append(stay)
        stay.tags = here

    def spend(self, wh: float, grams: float, elapsed_s: float) -> None:
        """Add energy that was used evenly from the end of the last interval until `elapsed_s` after the start."""
        stay = self._stays[-1]
        stay.quarters.spend(wh, elapsed_s)
        stay.wh, stay.grams = stay.wh + wh, stay.grams + grams
        self._elapsed_s = max(self._elapsed_s, elapsed_s)

    def text(self) -> str:
        """The energy of all stays by quarter-hour."""
        text, *others = (stay.quarters.text() for stay in self._stays)
        for other in others:
            text = hourly.added(text, other)
        return text

    def several(self) -> tuple[Mapping[str, Any], ...]:
        """The stays as JSON types; none if there is only one."""
        if len(self._stays) < 2:
            return ()
        return tuple(place.as_dict() for place in places.of(stay.place() for stay in self._stays))

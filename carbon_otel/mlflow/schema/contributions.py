"""One run, several processes: each keeps its own part of the sums in a tag of its own, and the run is their sum.

A run that is resumed, or that ranks and children share by MLFLOW_RUN_ID, has several writers, and MLflow has
neither increments nor transactions. So nobody adds to what another has written: a part is replaced by its writer
only, and whoever reads adds the parts up. The metrics of the run are that sum as its last writer saw it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from carbon_otel.mlflow.compat import metric_points
from carbon_otel.mlflow.schema import hourly

PREFIX: Final = "carbon.part."
# MLflow cuts tags off at 8000 characters.
_LONGEST: Final = 8000


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one process has used in a run, from one of its starts on. Its first point has the step `step`."""

    values: Mapping[str, float] = field(default_factory=dict)
    hourly: str = ""
    step: int = 0
    final: bool = False

    def tags(self, name: str) -> dict[str, str]:
        """As many tags as it takes, for the writer of that name."""
        said = {"values": self.values, "hourly": self.hourly, "step": self.step, "final": self.final}
        text = json.dumps(said, separators=(",", ":"))
        pieces = [text[i : i + _LONGEST] for i in range(0, len(text), _LONGEST)]
        return {f"{PREFIX}{name}" + (f".{i}" if i else ""): piece for i, piece in enumerate(pieces)}


def read(tags: Mapping[str, str]) -> dict[str, Contribution]:
    """The parts of a run, by who wrote them. One that cannot be read, as somebody has cut it off, is an empty one
    that has not ended.
    """
    pieces: dict[str, dict[int, str]] = {}
    for tag, text in tags.items():
        if tag.startswith(PREFIX):
            name, _, place = tag.removeprefix(PREFIX).partition(".")
            pieces.setdefault(name, {})[int(place) if place.isdecimal() else 0] = text
    return {name: _part("".join(text for _, text in sorted(found.items()))) for name, found in pieces.items()}


def _part(text: str) -> Contribution:
    try:
        # What follows it is the end of a longer text of before.
        return Contribution(**json.JSONDecoder().raw_decode(text)[0])
    except (ValueError, TypeError):
        return Contribution()


def total(parts: Iterable[Contribution]) -> Contribution:
    """Their sum; final once all of them are."""
    values: dict[str, float] = {}
    by_hour, final = "", True
    for part in parts:
        for name, value in part.values.items():
            values[name] = values.get(name, 0.0) + value
        by_hour = hourly.added(by_hour, part.hourly)
        final = final and part.final
    return Contribution(values, by_hour, final=final)


def next_step(data: Any) -> int:
    """The first step that no point of ours has, from a run's data."""
    return max((m.step + 1 for m in metric_points(data) if m.key.startswith("carbon/")), default=0)


def last_ms(data: Any) -> int:
    """When our last point was, in milliseconds since the epoch."""
    return max((m.timestamp for m in metric_points(data) if m.key.startswith("carbon/")), default=0)

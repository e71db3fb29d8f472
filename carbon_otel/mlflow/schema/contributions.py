"""A run that several processes write: each keeps its contribution in tags of its own, and the run is their sum.

A resumed run has several writers, and so has a run that ranks and children share by MLFLOW_RUN_ID. MLflow has
neither increments nor transactions, so no process adds to the figures of another: only its writer replaces a
contribution, and every reader adds the contributions up. The metrics of the run are the sum that its last
writer saw.

A contribution is JSON in tags that MLflow's pages hide, of few names, since each name is a column of
`mlflow.search_runs()`. The process that has created the run writes to `CREATOR`, and gives small numbers to the
parts of other processes that it sends. Any other writer has its id in the name: without transactions, two of them
could choose the same number, and one would overwrite the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from carbon_otel.mlflow.schema import checked, former, hourly, metric_points, names, pages, places
from carbon_otel.mlflow.schema.places import Place

PREFIX: Final = pages.HIDDEN
CREATOR: Final = "run"
# Says when a process has written last.
WRITTEN_AT: Final = "carbon.updated_at"
_STEPS: Final = 1 << 62  # MLflow keeps steps as 64-bit integers
_LAST_MS: Final = 253_402_300_799_000  # the year 9999
_LONGEST_PROCESS: Final = 500
_WRITER: Final = "writer"
# Hidden, but no contribution.
_WINDOW: Final = names.WINDOW.removeprefix(PREFIX)


@dataclass(frozen=True, slots=True)
class Contribution:
    """The use of one process in a run since one of its starts.

    `step` is the step of its first point. A process has `joined` the run if another one has opened it. `process`
    is the identity of the process, empty if it is unknown; `rank` are the figures of a rank, by `rank_figures`.
    `tags` are the provenance of its figures, and `foreseen` its forecasts, which are no sums. `places` has several
    items if the process has changed the place of its run; `readable` is False for text that was cut or changed.
    """

    values: Mapping[str, float] = field(default_factory=dict)
    hourly: str = ""
    step: int = 0
    final: bool = False
    joined: bool = False
    process: str = ""
    rank: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    foreseen: Mapping[str, float] = field(default_factory=dict)
    places: tuple[Place, ...] = ()
    readable: bool = True

    def written(self, writer: str, name: str = "") -> dict[str, str]:
        """The tags with this contribution of `writer`, under that name or another one."""
        content: dict[str, Any] = {
            f.name: value for f in fields(self) if f.name != "readable" and (value := getattr(self, f.name))
        }
        content |= {"values": self.values, "hourly": self.hourly, "step": self.step, "final": self.final}
        if self.places:
            content["places"] = [place.as_dict() for place in self.places]
        if name:
            content[_WRITER] = writer
        return checked.tags_of(PREFIX + (name or writer), content)

    def at_places(self) -> tuple[Place, ...]:
        """Where the energy of this contribution was used, without that of nested runs."""
        if self.places or not self.values:
            return self.places
        nested_wh, nested_g = names.nested_sums(self.values)
        wh = max(0.0, self.values.get(names.ENERGY_WH, 0.0) - nested_wh)
        grams = max(0.0, self.values.get(names.EMISSIONS_G, 0.0) - nested_g)
        return (Place(places.tags_of(self.tags), wh, grams, self.hourly),)


def is_part(tag: str) -> bool:
    """Whether a tag has a contribution, or a piece of one."""
    return tag.startswith((PREFIX, former.PART))


def read(tags: Mapping[str, str]) -> dict[str, Contribution]:
    """The contributions to a run by their writers.

    An unreadable (truncated, changed) contribution counts as empty and unfinished. If a writer has two, as when
    another process has sent a later state of it, the one with more energy is the later one.
    """
    found: dict[str, Contribution] = {}
    texts = [
        *checked.pieces_of(tags, former.PART).items(),
        *checked.pieces_of(tags, PREFIX).items(),
    ]
    for name, text in texts:
        if name == _WINDOW:
            continue
        content = checked.object_in(text) or {}
        part, writer = _parsed(content), content.get(_WRITER)
        writer = writer if isinstance(writer, str) and writer else name
        known = found.get(writer)
        if known is None or _state(part) >= _state(known):
            found[writer] = part
    return found


def _state(part: Contribution) -> tuple[float, bool]:
    return part.values.get(names.ENERGY_WH, -1.0), part.final


def _parsed(content: Mapping[str, Any]) -> Contribution:
    unreadable = Contribution(readable=False)
    values = checked.numbers(content.get("values"))
    by_hour, step, final = (content.get(name) for name in ("hourly", "step", "final"))
    if values is None or not isinstance(by_hour, str) or not isinstance(final, bool):
        return unreadable
    if not all(map(checked.is_metric, values)) or not all(map(checked.is_amount, values.values())):
        return unreadable
    process = content.get("process", "")  # missing in earlier versions
    if not isinstance(process, str) or len(process) > _LONGEST_PROCESS:
        return unreadable
    if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < _STEPS:
        return unreadable
    tags, at_places = checked.texts(content.get("tags", {})), places.parsed(content.get("places", []))
    if tags is None or at_places is None:
        return unreadable
    return Contribution(
        values,
        by_hour,
        step,
        final,
        content.get("joined") is True,
        process,
        checked.numbers(content.get("rank", {})) or {},
        {name: tag for name, tag in tags.items() if name.startswith("carbon.")},
        checked.numbers(content.get("foreseen", {})) or {},
        at_places,
    )


def total(contributions: Iterable[Contribution]) -> Contribution:
    """The sum of contributions; final if all of them are."""
    values: dict[str, float] = {}
    foreseen: dict[str, float] = {}
    by_hour, final = "", True
    for contribution in contributions:
        for name, value in contribution.values.items():
            values[name] = values.get(name, 0.0) + value
        foreseen |= contribution.foreseen
        by_hour = hourly.added(by_hour, contribution.hourly)
        final = final and contribution.final
    return Contribution(values, by_hour, final=final, foreseen=foreseen)


def provenance(parts: Iterable[Contribution], own: Mapping[str, str]) -> dict[str, str]:
    """The tags of a run: those of the process that has written last; of several places, all.

    `own` are the tags of the run itself.
    """
    tags = dict(own)
    written = sorted(parts, key=lambda part: part.tags.get(WRITTEN_AT, ""))
    for part in written:
        if not part.joined:
            tags |= part.tags
    if written:
        tags["carbon.segments"] = str(len(written))
    return tags | places.mixed(places.of(each for part in written for each in part.at_places()))


def figures_and_tags(
    metrics: Mapping[str, float], tags: Mapping[str, str]
) -> tuple[dict[str, float], dict[str, str]]:
    """The figures and tags of a run, added up over its processes. Raises Unreadable."""
    figures, own_tags = names.unpack(metrics, tags)
    written = read(tags)
    if not written:
        return figures, own_tags
    sums = total(written.values())
    if all(contribution.readable for contribution in written.values()):
        # Otherwise the metrics of the run are the best known figures.
        figures |= {**sums.values, **sums.foreseen}
    own_tags = provenance(written.values(), own_tags)
    own_tags[names.HOURLY] = sums.hourly
    if not sums.final and own_tags.get("carbon.status") == "final":
        own_tags["carbon.status"] = "running"  # one process has ended in order, another one has not
    return figures, own_tags


def places_of(tags: Mapping[str, str]) -> tuple[Place, ...]:
    """Where the energy of a run was used, without that of nested runs; empty where only one place is known."""
    parts = read(tags).values()
    found = places.of(place for part in parts for place in part.at_places())
    return found if len(found) > 1 else ()


def next_step(data: Any) -> int:
    """The first step after all points of carbon_otel, from the data of a run."""
    return max((m.step + 1 for m in metric_points.of(data) if 0 <= m.step < _STEPS), default=0)


def last_ms(data: Any) -> int:
    """The time of the last point of carbon_otel in milliseconds since the epoch, from the data of a run."""
    return max((m.timestamp for m in metric_points.of(data) if 0 <= m.timestamp < _LAST_MS), default=0)

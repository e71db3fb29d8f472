"""A run that several processes write: each keeps its contribution in separate tags, and the run is their sum.

A resumed run has several writers, and so has a run that ranks and children share by MLFLOW_RUN_ID. MLflow has
neither increments nor transactions, so no process adds to the figures of another: only its writer replaces a
contribution, and every reader adds the contributions up. The metrics of the run are the sum that its last
writer saw.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from carbon_otel.mlflow.compat import MetricPoint, metric_points
from carbon_otel.mlflow.schema import checked, hourly, names

PREFIX: Final = "carbon.part."
_STEPS: Final = 1 << 62  # MLflow keeps steps as 64-bit integers
_LAST_MS: Final = 253_402_300_799_000  # the year 9999
_LONGEST_PROCESS: Final = 500


@dataclass(frozen=True, slots=True)
class Contribution:
    """The use of one process in a run since one of its starts.

    `step` is the step of its first point. A process has `joined` the run if another one has opened it. `process`
    is the identity of the process, empty if it is unknown; `rank` are the figures of a rank, by `rank_figures`.
    """

    values: Mapping[str, float] = field(default_factory=dict)
    hourly: str = ""
    step: int = 0
    final: bool = False
    joined: bool = False
    process: str = ""
    rank: Mapping[str, float] = field(default_factory=dict)

    def tags(self, name: str) -> dict[str, str]:
        """The tags with this contribution of the writer `name`."""
        content = {f.name: getattr(self, f.name) for f in fields(self)}
        return checked.tags_of(PREFIX + name, content)


def read(tags: Mapping[str, str]) -> dict[str, Contribution]:
    """The contributions to a run by the name of their writer.

    An unreadable (truncated, changed) contribution counts as empty and unfinished.
    """
    return {name: _parsed(text) for name, text in checked.pieces_of(tags, PREFIX).items()}


def _parsed(text: str) -> Contribution:
    content = checked.object_in(text) or {}
    values = checked.numbers(content.get("values"))
    by_hour, step, final = (content.get(name) for name in ("hourly", "step", "final"))
    if values is None or not isinstance(by_hour, str) or not isinstance(final, bool):
        return Contribution()
    if not all(map(checked.is_metric, values)) or not all(map(checked.is_amount, values.values())):
        return Contribution()
    process = content.get("process", "")  # missing in earlier versions
    if not isinstance(process, str) or len(process) > _LONGEST_PROCESS:
        return Contribution()
    if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < _STEPS:
        return Contribution()
    rank = checked.numbers(content.get("rank", {})) or {}
    return Contribution(values, by_hour, step, final, content.get("joined") is True, process, rank)


def total(contributions: Iterable[Contribution]) -> Contribution:
    """The sum of contributions; final if all of them are."""
    values: dict[str, float] = {}
    by_hour, final = "", True
    for contribution in contributions:
        for name, value in contribution.values.items():
            values[name] = values.get(name, 0.0) + value
        by_hour = hourly.added(by_hour, contribution.hourly)
        final = final and contribution.final
    return Contribution(values, by_hour, final=final)


def figures_and_tags(
    metrics: Mapping[str, float], tags: Mapping[str, str]
) -> tuple[dict[str, float], dict[str, str]]:
    """The figures and tags of a run, added up over its processes. Raises Unreadable."""
    figures, own_tags = names.unpack(metrics, tags)
    written = read(own_tags)
    if not written:
        return figures, own_tags
    sums = total(written.values())
    if all(contribution.values for contribution in written.values()):
        figures |= sums.values  # otherwise the metrics of the run are the best known figures
    own_tags = {name: tag for name, tag in own_tags.items() if not name.startswith(PREFIX)}
    own_tags[names.HOURLY] = sums.hourly
    if not sums.final and own_tags.get("carbon.status") == "final":
        own_tags["carbon.status"] = "running"  # one process has ended in order, another one has not
    return figures, own_tags


def next_step(data: Any) -> int:
    """The first step after all points of carbon_otel, from the data of a run."""
    return max((m.step + 1 for m in _points(data) if 0 <= m.step < _STEPS), default=0)


def last_ms(data: Any) -> int:
    """The time of the last point of carbon_otel in milliseconds since the epoch, from the data of a run."""
    return max((m.timestamp for m in _points(data) if 0 <= m.timestamp < _LAST_MS), default=0)


def _points(data: Any) -> Iterator[MetricPoint]:
    return (point for point in metric_points(data) if point.key.startswith(names.PREFIX))

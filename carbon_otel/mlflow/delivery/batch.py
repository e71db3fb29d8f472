"""A batch: the complete state of a segment of a run. Sending it twice changes nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import NoneType
from typing import Any, Final

from carbon_otel.mlflow.schema import checked, names, places


@dataclass(frozen=True, slots=True)
class LedgerRun:
    """A run in the experiment `carbon-ledger`, created when its first batch is sent."""

    entry_id: str
    name: str
    start_ms: int
    model_id: str | None = None
    source_run_id: str | None = None

    def model(self) -> dict[str, str]:
        """Tags that name the model of this run."""
        tags = {names.MODEL: self.model_id, names.SOURCE_RUN: self.source_run_id}
        return {name: value for name, value in tags.items() if value}


@dataclass(frozen=True, slots=True)
class Batch:
    """One state of one segment of a run: `values` are sums since this process began or resumed the run.

    `segment` is unique in this process, `contribution_id` across processes. `gauges` are instantaneous
    values, not cumulative. `final` marks the last batch of a segment. `run_id` and `contribution_id` are
    empty if the run is an `entry` of the ledger, which the first upload creates. `begin_ms` is the start of the
    segment, and `places` has several items if its run has moved in it. `efficiency_metric` is the
    user's metric that is divided by the emissions. A batch is `joined` if another process has opened the run.
    `curves` and `bars` say which metrics get a point. `rank` are the figures of a rank, by `rank_figures`.
    """

    run_id: str
    segment: int
    values: Mapping[str, float]
    tags: Mapping[str, str]
    step: int
    timestamp_ms: int
    contribution_id: str = ""
    gauges: Mapping[str, float] = field(default_factory=dict)
    hourly: str = ""
    resumed: bool = False
    final: bool = False
    entry: LedgerRun | None = None
    efficiency_metric: str | None = None
    joined: bool = False
    curves: bool = True
    bars: bool = True
    rank: Mapping[str, float] = field(default_factory=dict)
    begin_ms: int = 0
    places: tuple[Mapping[str, Any], ...] = ()

    def drawn(self, figures: Mapping[str, float]) -> dict[str, float]:
        """The figures of this state that become points of metrics."""
        return {
            name: value
            for name, value in figures.items()
            if (self.curves if names.is_curve(name) else self.bars)
        }

    @property
    def ordering_key(self) -> str:
        """Key within which batches must stay in order: the entry id, else the run id."""
        return self.entry.entry_id if self.entry else self.run_id

    @property
    def label(self) -> str:
        """The run, as text for a message."""
        return self.entry.name if self.entry else f"run {self.run_id}"


_TYPES: Final[dict[type, dict[str, tuple[type, ...]]]] = {
    Batch: {
        **dict.fromkeys(("run_id", "contribution_id", "hourly"), (str,)),
        **dict.fromkeys(("segment", "step", "timestamp_ms", "begin_ms"), (int,)),
        **dict.fromkeys(("resumed", "final", "curves", "bars"), (bool,)),
        **dict.fromkeys(("values", "tags", "gauges", "rank"), (dict,)),
        "efficiency_metric": (str, NoneType),
        "places": (tuple,),
    },
    LedgerRun: {
        **dict.fromkeys(("entry_id", "name"), (str,)),
        "start_ms": (int,),
        **dict.fromkeys(("model_id", "source_run_id"), (str, NoneType)),
    },
    NoneType: {},
}
# Files written by versions before 0.2 use these names.
_FORMER_NAMES: Final = {"part": "contribution_id", "per_gram": "efficiency_metric"}


def encoded(batch: Batch) -> dict[str, Any]:
    """A batch as JSON types."""
    body: dict[str, Any] = {f.name: getattr(batch, f.name) for f in fields(batch)}
    for name in ("values", "tags", "gauges", "rank"):
        body[name] = dict(body[name])
    body["places"] = list(batch.places)
    if batch.entry is not None:
        body["entry"] = {f.name: getattr(batch.entry, f.name) for f in fields(batch.entry)}
    return body


def decoded(body: Mapping[str, Any]) -> Batch:
    """The inverse of `encoded`. Raises TypeError or AttributeError for any other structure."""
    arguments = {_FORMER_NAMES.get(name, name): value for name, value in body.items()}
    arguments["places"] = tuple(arguments.get("places", ()))
    entry = arguments.pop("entry", None)
    batch = Batch(**arguments, entry=LedgerRun(**entry) if entry else None)
    for item in (batch, batch.entry):
        for name, kind in _TYPES[type(item)].items():
            if type(value := getattr(item, name)) not in kind:
                raise TypeError(f"{name} is {value!r:.40}")
    for figures in (batch.values, batch.gauges, batch.rank):
        if checked.numbers(figures) is None:
            raise TypeError("a figure is not a number")
    if not all(isinstance(tag, str) for tag in batch.tags.values()):
        raise TypeError("a tag is not text")
    if places.parsed(list(batch.places)) is None:
        raise TypeError("a place is not readable")
    return batch


def to_line(number: int, address: str, batch: Batch) -> bytes:
    """A batch as a line of a spool file."""
    record = {"id": number, "address": address, "batch": encoded(batch)}
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"

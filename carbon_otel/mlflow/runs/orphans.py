"""Runs that a kill left RUNNING are marked as KILLED; their last checkpoint is a lower bound.

A run is an orphan if every process that writes to it has certainly ended, and if nothing was written to it for a
minute. In doubt a run is left as it is: hosts and containers may have the same name, a user may not see the
processes of others, and a living process whose store was down has not written for long.
"""

from __future__ import annotations

import calendar
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from carbon_otel.guard import log_once
from carbon_otel.host.identity import is_gone
from carbon_otel.mlflow.compat import found_by
from carbon_otel.mlflow.schema import contributions, metric_points, names, pages
from carbon_otel.mlflow.schema.checked import Unreadable
from carbon_otel.units import MS_PER_S

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

KILLED: Final = "killed"
SILENT_S: Final = 60.0
_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"


class Orphan(NamedTuple):
    """A run whose processes have ended.

    `wrote_s` is the time of its last checkpoint, in seconds since the epoch. `missing` are the metrics that are
    older than that checkpoint; `step` and `at_ms` come after all points. The run began at `begin_ms`, and `begun`
    are its metrics so far.
    """

    run_id: str
    wrote_s: float
    missing: Mapping[str, float] = MappingProxyType({})
    step: int = 0
    at_ms: int = 0
    begin_ms: int = 0
    begun: frozenset[str] = frozenset()


class Orphans(NamedTuple):
    """`unreadable` lists the runs whose tags cannot be read, each with the reason; they are not changed."""

    runs: list[Orphan]
    unreadable: list[str]


def find(
    client: MlflowClient, experiment_ids: list[str] | None = None, silent_s: float = SILENT_S
) -> Orphans:
    """The orphans of these experiments, by default of all.

    Raises the errors of the store.
    """
    if experiment_ids is None:
        experiment_ids = [each.experiment_id for each in found_by(client.search_experiments)]
    left_open = "attributes.status = 'RUNNING' and tags.`carbon.status` = 'running'"
    orphans = Orphans([], [])
    for run in found_by(client.search_runs, experiment_ids, left_open):
        try:
            orphan = _orphan(run, silent_s)
        except Unreadable as reason:
            orphans.unreadable.append(f"{run.info.run_id}: {reason}")
            continue
        if orphan is not None:
            orphans.runs.append(orphan)
    return orphans


def end(client: MlflowClient, orphan: Orphan) -> None:
    """Mark the run as KILLED at its last checkpoint, with the sums of that checkpoint as metrics.

    Raises the errors of the store.
    """
    from mlflow.entities import RunTag

    points = metric_points.new(orphan.missing, orphan.step, orphan.at_ms, orphan.begin_ms, set(orphan.begun))
    client.log_batch(orphan.run_id, points, tags=[RunTag("carbon.status", KILLED)])
    client.set_terminated(orphan.run_id, "KILLED", int(orphan.wrote_s * MS_PER_S))


def reconcile(
    client: MlflowClient, experiment_ids: list[str] | None = None, silent_s: float = SILENT_S
) -> list[str]:
    """Find and end orphans; returns the ids of the ended runs.

    Raises the errors of the store while the orphans are looked for. A run that cannot be ended is left as it is.
    """
    ended = []
    # Find all orphans before ending one: an ended run changes the pages of the search.
    for orphan in find(client, experiment_ids, silent_s).runs:
        try:
            end(client, orphan)
        except Exception as error:  # noqa: BLE001 - every kind of store raises its own
            log_once("the killed run %s cannot be ended: %s", orphan.run_id, error, about=orphan.run_id)
        else:
            ended.append(orphan.run_id)
    return ended


def _orphan(run: Run, silent_s: float) -> Orphan | None:
    """The run as an orphan, if it is one. Raises Unreadable."""
    figures, tags = contributions.figures_and_tags(run.data.metrics, run.data.tags)
    wrote_s = _wrote_s(run, tags)
    processes = _writers(run.data.tags, tags.get(names.PROCESS))
    if time.time() - wrote_s < silent_s or not processes or not all(map(is_gone, processes)):
        return None
    is_window = names.ENTRY in tags
    figures |= names.rates_per_1k(figures)
    missing = {
        name: value
        for name, value in figures.items()
        if (not is_window or names.is_curve(name)) and run.data.metrics.get(pages.metric(name) or "") != value
    }
    return Orphan(
        run.info.run_id,
        wrote_s,
        missing,
        contributions.next_step(run.data),
        max(int(wrote_s * MS_PER_S), contributions.last_ms(run.data) + 1),
        0 if is_window else run.info.start_time or 0,
        frozenset(point.key for point in metric_points.of(run.data)),
    )


def _writers(tags: Mapping[str, str], of_run: str | None) -> set[str]:
    """The processes whose part of the run has no end, or all of its processes if every part has one.

    `of_run` is the process in the tags of the run, which earlier versions wrote, and which windows have. Raises
    Unreadable if a process is unknown.
    """
    parts = contributions.read(tags).values()
    known = set() if of_run is None else {of_run}
    # Version 0.1 wrote no process into the parts; the run has the one that wrote last.
    if any(not part.readable and not part.process for part in parts) and (len(parts) > 1 or not known):
        raise Unreadable(f"a tag {contributions.PREFIX}* is cut or was changed")
    open_parts = [part for part in parts if not part.final] or parts
    processes = {part.process for part in open_parts}
    return known | (processes - {""} if known and len(parts) == 1 else processes)


def _wrote_s(run: Any, tags: Mapping[str, str]) -> float:
    try:
        wrote_s = calendar.timegm(time.strptime(tags["carbon.updated_at"], _TIME))
    except (KeyError, ValueError):
        wrote_s = 0
    return wrote_s if wrote_s > 0 else (run.info.start_time or 0) / MS_PER_S

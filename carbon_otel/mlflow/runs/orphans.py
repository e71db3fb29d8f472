"""Runs that a kill left RUNNING are marked as KILLED; their last checkpoint is a lower bound.

A run is an orphan if its process ran on this host and has ended, and if nothing was written to it for a
minute. Containers may share one host name, and their processes cannot be distinguished from outside.
"""

from __future__ import annotations

import calendar
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from carbon_otel.host.identity import is_gone
from carbon_otel.mlflow.compat import found_by
from carbon_otel.mlflow.schema import names
from carbon_otel.mlflow.schema.checked import Unreadable
from carbon_otel.units import MS_PER_S

if TYPE_CHECKING:
    from mlflow import MlflowClient

KILLED: Final = "killed"
SILENT_S: Final = 60.0
_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"


class Orphan(NamedTuple):
    """A run whose process has ended; `wrote_s` is the time of its last checkpoint, in seconds since the epoch."""

    run_id: str
    wrote_s: float


class Orphans(NamedTuple):
    """`unreadable` lists the runs whose tags cannot be read, with the reason; they are not changed."""

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
            _, tags = names.unpack({}, run.data.tags)
        except Unreadable as reason:
            orphans.unreadable.append(f"{run.info.run_id}: {reason}")
            continue
        wrote_s = _wrote_s(run, tags)
        if is_gone(tags.get(names.PROCESS, "")) and time.time() - wrote_s >= silent_s:
            orphans.runs.append(Orphan(run.info.run_id, wrote_s))
    return orphans


def end(client: MlflowClient, orphan: Orphan) -> None:
    """Mark the run as KILLED at its last checkpoint. Raises the errors of the store."""
    client.set_tag(orphan.run_id, "carbon.status", KILLED)
    client.set_terminated(orphan.run_id, "KILLED", int(orphan.wrote_s * MS_PER_S))


def reconcile(
    client: MlflowClient, experiment_ids: list[str] | None = None, silent_s: float = SILENT_S
) -> list[str]:
    """Find and end orphans; returns the ids of their runs. Raises the errors of the store."""
    # Find all orphans before ending one: an ended run changes the pages of the search.
    orphans = find(client, experiment_ids, silent_s).runs
    for orphan in orphans:
        end(client, orphan)
    return [orphan.run_id for orphan in orphans]


def _wrote_s(run: Any, tags: Mapping[str, str]) -> float:
    try:
        wrote_s = calendar.timegm(time.strptime(tags["carbon.updated_at"], _TIME))
    except (KeyError, ValueError):
        wrote_s = 0
    return wrote_s if wrote_s > 0 else (run.info.start_time or 0) / MS_PER_S

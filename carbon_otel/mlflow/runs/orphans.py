"""Runs that a kill has left RUNNING: marked as KILLED, with the last checkpoint as their lower bound.

Only runs whose process was on this host and is gone, and that have not been written for a minute: a host's name
may be that of several containers, whose processes cannot be told apart from here.
"""

from __future__ import annotations

import calendar
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from carbon_otel.host.identity import is_gone
from carbon_otel.mlflow.compat import found_by
from carbon_otel.mlflow.schema import names

if TYPE_CHECKING:
    from mlflow import MlflowClient

KILLED: Final = "killed"
SILENT_S: Final = 60.0
_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"


def reconcile(
    client: MlflowClient, experiment_ids: list[str] | None = None, silent_s: float = SILENT_S
) -> list[str]:
    """End the runs that processes of this host have left open; their ids. Raises what the store does."""
    if experiment_ids is None:
        experiment_ids = [found.experiment_id for found in found_by(client.search_experiments)]
    left_open = "attributes.status = 'RUNNING' and tags.`carbon.status` = 'running'"
    ended: list[str] = []
    # All are found before one is ended: it would be missing on the next page.
    for run in list(found_by(client.search_runs, experiment_ids, left_open)):
        _, tags = names.unpacked({}, run.data.tags)
        wrote_s = _wrote_s(run, tags)
        if is_gone(tags.get(names.PROCESS, "")) and time.time() - wrote_s >= silent_s:
            client.set_tag(run.info.run_id, "carbon.status", KILLED)
            client.set_terminated(run.info.run_id, "KILLED", int(wrote_s * 1000))
            ended.append(run.info.run_id)
    return ended


def _wrote_s(run: Any, tags: Mapping[str, str]) -> float:
    try:
        return calendar.timegm(time.strptime(tags["carbon.updated_at"], _TIME))
    except (KeyError, ValueError):
        return float(run.info.start_time) / 1000

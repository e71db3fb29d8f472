"""First points of metrics in MLflow's store of files.

The store makes the file of a metric, and then writes its first line. A call of the user that reads the run between
the two fails with "Metric ... is malformed". Here the file appears together with its line.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def write_first(store: Any, run_id: str, points: Sequence[Any]) -> list[Any]:
    """Write the first point of each metric that has no file yet; returns the points for `log_batch` to write.

    Those are all points if the store is of another kind, or if its folder takes no links. Raises what `log_batch`
    raises.
    """
    path_of = getattr(store, "_get_metric_path", None)
    if path_of is None or not points:
        return list(points)
    store.log_batch(run_id, metrics=[], params=[], tags=[])  # raises if the run takes no points
    experiment_id = store._get_run_info(run_id).experiment_id  # noqa: SLF001 - `get_run` reads all its files
    left = []
    for point in points:
        path = Path(path_of(experiment_id, run_id, point.key))
        # A file in the folder of the metrics would be read as a metric.
        if path.exists() or not _appears(path, f"{point.timestamp} {point.value} {point.step}\n", store):
            left.append(point)
    return left


def _appears(path: Path, line: str, store: Any) -> bool:
    """Whether this has made the file, with this line."""
    new = Path(store.root_directory) / f".{secrets.token_hex(8)}.carbon_otel"
    try:
        with new.open("x") as file:
            file.write(line)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(new, path)
    except OSError:
        return False
    finally:
        with contextlib.suppress(OSError):
            new.unlink()
    return True

"""MLflow stores for tests: each a copy of one empty database, since MLflow's migrations take seconds."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path


class EmptyStore:
    """An empty sqlite store below `folder`, made by the first worker that needs it."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "empty-mlflow.db"
        self._lock = folder / "empty-mlflow.lock"

    def copy(self, folder: Path) -> str:
        """The address of a store of its own in `folder`, with artifacts below `folder`."""
        with self._lock.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self._file.exists():
                self._make()
        file = folder / "mlflow.db"
        shutil.copy(self._file, file)
        with contextlib.closing(sqlite3.connect(file)) as database, database:
            # The default experiment, the only one, still points to the folder of the original.
            database.execute("update experiments set artifact_location = ?", ((folder / "0").as_uri(),))
        return f"sqlite:///{file}"

    def _make(self) -> None:
        import mlflow

        fresh = self._file.with_suffix(".new")
        mlflow.MlflowClient(f"sqlite:///{fresh}").search_experiments()
        fresh.rename(self._file)


@contextlib.contextmanager
def tracking(uri: str) -> Iterator[str]:
    """Makes it the tracking store of this process and, by MLflow's variable, of its children."""
    import mlflow
    from mlflow.tracking import fluent

    mlflow.set_tracking_uri(uri)
    try:
        yield uri
    finally:
        mlflow.set_tracking_uri(None)
        # `mlflow.set_experiment` stays in the process and, for children, in the environment.
        fluent._active_experiment_id = None
        for name in ("MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
            os.environ.pop(name, None)

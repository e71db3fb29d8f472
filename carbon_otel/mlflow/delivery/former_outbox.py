"""Conversion of the sqlite files of version 0.1 to spool files."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from carbon_otel.guard import log_once
from carbon_otel.mlflow.delivery import spool
from carbon_otel.mlflow.delivery.batch import decoded
from carbon_otel.private_files import NotPrivateError, open_file, user_id


def convert(paths: Iterable[Path]) -> None:
    """Move the batches of ended processes from files of version 0.1 to spool files beside them."""
    for path in paths:
        try:
            if path.stat().st_size:
                _convert(path)
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):  # a locked file belongs to a living process
                _warn(path, error)
        except (OSError, sqlite3.Error, ValueError, TypeError, AttributeError) as error:
            _warn(path, error)


def _convert(path: Path) -> None:
    os.close(open_file(path, os.O_RDWR))
    # sqlite opens the file, and those beside it, by their names.
    folder = path.parent.stat()
    if folder.st_uid != user_id() or folder.st_mode & 0o022:
        raise NotPrivateError(f"other users can write {path.parent}")
    uri = f"{path.absolute().as_uri()}?mode=rw"
    with contextlib.closing(sqlite3.connect(uri, timeout=0, isolation_level=None, uri=True)) as database:
        database.execute("pragma locking_mode = exclusive")
        database.execute("begin exclusive")
        rows = database.execute("select address, body from batch order by id").fetchall()
        batches = [(address, decoded(json.loads(body))) for address, body in rows]
        new = spool.Spool.create(path.parent)
        # A kill at this point leaves the batches in both files. They are then sent twice, which changes
        # nothing.
        on_disk = [new.put(address, batch) for address, batch in batches]
        if not all(on_disk):
            new.done([row.number for address in new.addresses() for row in new.waiting(address)])
        new.close()
        if all(on_disk):
            path.unlink()
    if all(on_disk):
        for tail in ("-wal", "-shm", "-journal"):
            path.with_name(path.name + tail).unlink(missing_ok=True)


def _warn(path: Path, error: Exception) -> None:
    if path.exists():
        log_once("%s cannot be read, so its batches are not sent: %s", path, error, about=path)

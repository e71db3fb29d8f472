"""What has not reached MLflow yet, on disk: nothing is lost while a server is away, or with the process.

One sqlite file (WAL) per process, locked as long as the process lives: a lock dies with its holder, so whoever
can open a file may send what a killed process has left. Batches are cumulative and keep their step and time, so
sending one twice changes nothing. A kill of the process loses nothing that was put; a power cut may lose what
the system had not written yet (`synchronous=NORMAL`).
"""

from __future__ import annotations

import ctypes
import json
import os
import sqlite3
import threading
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from carbon_otel.fork import renew_after_fork
from carbon_otel.guard import log_once
from carbon_otel.mlflow.schema import names

# About 20 hours of one run's checkpoints each 15 s, and some 15 MB.
LIMIT: Final = 5000
_SUFFIX: Final = ".outbox"
_SCHEMA: Final = """
create table if not exists batch (id integer primary key, address text, run text, segment integer, body text);
pragma temp_store = memory;
create temp table overflow (id integer primary key, address text, run text, segment integer, body text);
create temp table gone (id integer primary key);
create temp view everything as
    select * from main.batch where id not in (select id from gone) union all select * from overflow;
"""
# From this number on, a batch is in memory only: the disk was full. They come after all on disk.
_OVERFLOW: Final = 1 << 40
_THIN: Final = """
delete from {table} where id in (
    select id from (
        select id, row_number() over (partition by segment order by id) as place,
               max(id) over (partition by segment) as newest
        from {table}
    ) where place % 2 = 0 and id <> newest
)
"""


@dataclass(frozen=True, slots=True)
class LedgerRun:
    """A run of our own ledger, made when its first batch is sent."""

    entry_id: str
    name: str
    start_ms: int
    model_id: str | None = None
    source_run_id: str | None = None

    def model(self) -> dict[str, str]:
        """Tags of what it is of."""
        said = {names.MODEL: self.model_id, names.SOURCE_RUN: self.source_run_id}
        return {name: value for name, value in said.items() if value}


@dataclass(frozen=True, slots=True)
class Batch:
    """One state of one segment of a run: `values` are sums since this process began or resumed it.

    `part` names the segment among all of the run's, in every process. `gauges` are no sums, and written as they
    are. `final` is its last. `run_id` and `part` are empty where the run is an `entry`, which is made by whoever
    sends it first. `per_gram` names the user's metric that is to be set against the emissions.
    """

    run_id: str
    segment: int
    values: Mapping[str, float]
    tags: Mapping[str, str]
    step: int
    timestamp_ms: int
    part: str = ""
    gauges: Mapping[str, float] = field(default_factory=dict)
    hourly: str = ""
    resumed: bool = False
    final: bool = False
    entry: LedgerRun | None = None
    per_gram: str | None = None

    @property
    def of(self) -> str:
        """What its order matters in."""
        return self.entry.entry_id if self.entry else self.run_id


@dataclass(frozen=True, slots=True)
class Waiting:
    """A batch in an outbox."""

    number: int
    batch: Batch


class SpoolInUse(OSError):
    """A living process holds the file, and sends it itself."""


class Spool:
    """Batches in the order in which they were put. Safe for threads; a forked child must open its own."""

    def __init__(self, path: Path | None) -> None:
        """Open a file; None keeps everything in memory. Raises SpoolInUse and sqlite3.Error."""
        self.path = path
        self._lock = threading.Lock()
        renew_after_fork(self._renew)
        # A file that has gone meanwhile is not to come back.
        where = f"{path.absolute().as_uri()}?mode=rw" if path else ":memory:"
        self._db = sqlite3.connect(where, timeout=0, isolation_level=None, check_same_thread=False, uri=True)
        # Collected in a forked child, the connection would take itself for the last one and remove the parent's
        # log: it is closed by `close()` alone.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._db))
        try:
            # Exclusive, it needs no shared memory, and so works on the file systems of clusters.
            self._db.execute("pragma locking_mode = exclusive")
            self._db.execute("pragma journal_mode = wal")
            self._db.execute("pragma synchronous = normal")
            self._db.executescript(_SCHEMA)
        except sqlite3.Error as error:
            self._db.close()
            if "locked" in str(error):
                raise SpoolInUse(str(path)) from None
            raise

    def _renew(self) -> None:
        """In a forked child: the thread that held the lock does not exist there."""
        self._lock = threading.Lock()

    @classmethod
    def create(cls, folder: Path) -> Spool:
        """A new one in that folder, which is made; in memory, with a warning, where that cannot be written."""
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = folder / f"{os.getpid()}-{uuid.uuid4().hex[:12]}{_SUFFIX}"
            os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
            return cls(path)
        except (OSError, sqlite3.Error) as error:
            log_once(
                "what MLflow does not take at once is kept in memory only, as %s cannot be written (%s); set "
                "state_dir to a folder that can",
                folder,
                error,
            )
            return cls(None)

    @classmethod
    def left_in(cls, folder: Path) -> Iterator[Spool]:
        """Those that ended processes have left behind; close each. What cannot be read stays, and is said."""
        for path in sorted(folder.glob(f"*{_SUFFIX}")):
            try:
                if not path.stat().st_size:
                    continue  # being made by a process that does not hold it yet
                left = cls(path)
            except SpoolInUse:
                continue
            except (OSError, sqlite3.Error) as error:
                if path.exists():  # else its owner, or another who sends, has just been done with it
                    log_once("%s cannot be read, and nothing in it is sent: %s", path, error, about=path)
                continue
            yield left

    def put(self, address: str, batch: Batch) -> None:
        """On disk; in memory, with a warning, while that is full."""
        row = address, batch.of, batch.segment, json.dumps(asdict(batch))
        with self._lock:
            (newest,) = self._db.execute("select max(id) from overflow").fetchone()
            if newest is None:
                try:
                    self._db.execute(
                        "insert into batch (address, run, segment, body) values (?, ?, ?, ?)", row
                    )
                    self._make_room("batch")
                    return
                except sqlite3.Error as error:
                    log_once(
                        "what MLflow does not take at once is kept in memory only, as %s cannot be written any "
                        "more (%s)",
                        self.path,
                        error,
                    )
            self._db.execute("insert into overflow values (?, ?, ?, ?, ?)", ((newest or _OVERFLOW) + 1, *row))
            self._make_room("overflow")

    def waiting(self, address: str, but: Collection[str] = (), limit: int = 1000) -> list[Waiting]:
        """The oldest for this store, without those of the runs `but`."""
        with self._lock:
            rows = self._db.execute(
                "select id, body from everything "
                "where address = ? and run not in (select value from json_each(?)) order by id limit ?",
                (address, json.dumps(list(but)), limit),
            ).fetchall()
        return [Waiting(number, _batch(json.loads(body))) for number, body in rows]

    def segments(self) -> frozenset[int]:
        """Those that have something waiting."""
        with self._lock:
            rows = self._db.execute("select distinct segment from everything").fetchall()
        return frozenset(segment for (segment,) in rows)

    def addresses(self) -> Mapping[str, int]:
        """How much waits for which store."""
        with self._lock:
            return dict(
                self._db.execute("select address, count(*) from everything group by address").fetchall()
            )

    def done(self, numbers: Sequence[int]) -> None:
        """These have been written, or refused for good."""
        rows = [(number,) for number in numbers]
        with self._lock:
            self._db.executemany("delete from overflow where id = ?", rows)
            try:
                self._db.executemany("delete from batch where id = ?", rows)
            except sqlite3.Error:
                # A full disk: sent once more by whoever finds the file, they change nothing.
                self._db.executemany("insert or ignore into gone values (?)", rows)

    def close(self) -> bool:
        """Whether nothing was left; the file is removed then."""
        empty = not self.segments()
        with self._lock:
            if empty and self.path is not None:
                self.path.unlink(missing_ok=True)
            self._db.close()
            if empty and self.path is not None:
                for tail in ("-wal", "-shm"):
                    self.path.with_name(self.path.name + tail).unlink(missing_ok=True)
        return empty

    def _make_room(self, table: str) -> None:
        """Every second checkpoint goes: a curve gets coarser, a total stays."""
        if self._count(table) <= LIMIT:
            return
        self._db.execute(_THIN.format(table=table))
        over = self._count(table) - LIMIT
        if over > 0:
            # Each of them is the only state of a run.
            self._db.execute(
                f"delete from {table} where id in (select id from {table} order by id limit ?)", (over,)
            )
            log_once("MLflow has been away for %d runs: the oldest figures are lost", LIMIT)

    def _count(self, table: str) -> int:
        (count,) = self._db.execute(f"select count(*) from {table}").fetchone()
        return int(count)


def _batch(said: dict[str, Any]) -> Batch:
    entry = said.pop("entry")
    return Batch(**said, entry=LedgerRun(**entry) if entry else None)

"""Batches on disk that MLflow has not accepted yet. Neither a dead server nor a kill loses them.

Each process appends to its own file: a line of JSON per batch, and a line of the numbers of sent batches. The
process holds a lock on the file; the kernel drops that lock when the process ends, however it ends. A process
that gets the lock may send the remaining batches. A kill loses no batch that was put, because a torn last
line is ignored and every other line is complete. A power cut may lose data that the system had not yet
written to the disk. A batch that is sent twice changes nothing, so a lost line of numbers costs a repetition
and no figure.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import uuid
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from carbon_otel.descriptors import file_of
from carbon_otel.fork import renew_after_fork
from carbon_otel.guard import log_once
from carbon_otel.mlflow.delivery import store_uri
from carbon_otel.mlflow.delivery.batch import Batch, LedgerRun, decoded, to_line
from carbon_otel.mlflow.delivery.locked_file import (
    SpoolInUse,
    lock,
    lock_again,
    own_files,
    read,
    unlock,
    write,
)
from carbon_otel.private_files import make_folder

__all__ = ["LIMIT", "Batch", "LedgerRun", "Spool", "SpoolInUse", "Waiting"]

# For each store, about 20 hours of checkpoints of one run, one each 15 s; about 15 MB.
LIMIT: Final = 5000
_SUFFIX: Final = ".spool"
_COMPACTED_SUFFIX: Final = ".compacted"
_FORMER_SUFFIX: Final = ".outbox"  # of version 0.1
# The file is rewritten when it has this many bytes more than twice the size of the waiting batches.
_SLACK_BYTES: Final = 1 << 20
_TRIES: Final = 5


_K = TypeVar("_K")


@dataclass(frozen=True, slots=True)
class Waiting:
    """A batch in a spool."""

    number: int
    batch: Batch


@dataclass(slots=True)
class _Row:
    """The position of a batch: at `offset` of the file, or in `line` if the disk was full."""

    address: str
    ordering_key: str
    segment: int
    size: int
    offset: int = 0
    line: bytes | None = None


class Spool:
    """Batches in the order of `put`. Threads may share it; a forked child must create a new one."""

    def __init__(self, path: Path | None = None, descriptor: int | None = None) -> None:
        """Read an open, locked file; without one, keep batches in memory. Raises OSError."""
        self.path = path
        self.unreadable = 0
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._rows: dict[int, _Row] = {}
        self._segments: Counter[int] = Counter()
        self._addresses: Counter[str] = Counter()
        self._keys: Counter[str] = Counter()
        self._next = 1
        self._end = 0
        self._compact_above = _SLACK_BYTES
        self._file: object = None
        if descriptor is not None:
            self._file = file_of(descriptor)
            self._load(descriptor)
        renew_after_fork(self._renew)

    @classmethod
    def create(cls, folder: Path) -> Spool:
        """A new file in `folder`, which is created; if that fails, a spool in memory, with a warning."""
        try:
            make_folder(folder)
            for _ in range(_TRIES):
                path = folder / f"{os.getpid()}-{uuid.uuid4().hex[:12]}{_SUFFIX}"
                with contextlib.suppress(
                    SpoolInUse
                ):  # another process is checking whether the file's process has ended
                    return cls(path, lock(path, os.O_CREAT | os.O_EXCL))
            raise OSError("another process took every new file")
        except OSError as error:
            log_once(
                "batches that wait for MLflow are kept in memory only, because %s cannot be used "
                "(%s); set state_dir to a writable folder on a local disk",
                folder,
                error,
            )
            return cls()

    @classmethod
    def open(cls, path: Path) -> Spool:
        """The spool of a process that has ended. Raises SpoolInUse and OSError."""
        return cls(path, lock(path))

    @classmethod
    def left_in(cls, folder: Path, prefix: str = "") -> Iterator[Spool]:
        """The spools of processes that have ended; the caller closes each. Unreadable lines stay in their file.

        Only those whose names begin with `prefix`.
        """
        for path in own_files(folder, _COMPACTED_SUFFIX):
            with contextlib.suppress(OSError):
                os.close(lock(path))
                path.unlink(missing_ok=True)
        if former := own_files(folder, _FORMER_SUFFIX):
            from carbon_otel.mlflow.delivery import former_outbox  # noqa: PLC0415 - imports sqlite3

            former_outbox.convert(former)
        for path in own_files(folder, _SUFFIX):
            if not path.name.startswith(prefix):
                continue
            try:
                left = cls.open(path)
            except SpoolInUse:
                continue
            except OSError as error:
                if path.exists():  # if not, another process has just sent and removed it
                    log_once("%s cannot be read, so its batches are not sent: %s", path, error, about=path)
                continue
            if left.unreadable:
                log_once(
                    "%d lines of %s cannot be read, so they are not sent", left.unreadable, path, about=path
                )
            if left.addresses():
                yield left
            else:
                left.close()

    def put(self, address: str, batch: Batch) -> bool:
        """Append a batch to the file. While the disk is full, keep it in memory, warn once and return False."""
        with self._lock:
            self._find_again()
            number = self._next
            self._next += 1
            line = to_line(number, address, batch)
            row = _Row(address, batch.ordering_key, batch.segment, len(line))
            try:
                row.offset = self._append(line)
            except OSError as error:
                row.line = line
                if self._descriptor is not None:
                    log_once(
                        "batches that wait for MLflow are kept in memory only, because %s cannot be "
                        "written any more (%s)",
                        self.path,
                        error,
                    )
            self._add(number, row)
            if self._addresses[address] > LIMIT:
                self._make_room(address)
            return row.line is None

    def waiting(
        self,
        address: str,
        excluded: Collection[str] = (),
        limit: int = 200,
        first: Collection[int] = (),
    ) -> list[Waiting]:
        """The oldest batches for this store, except those with an ordering key in `excluded`. Raises OSError.

        The runs of the segments in `first` come first.
        """
        with self._lock:
            self._find_again()
            found = {
                number: row
                for number, row in self._rows.items()
                if row.address == address and row.ordering_key not in excluded
            }
            hurried = {row.ordering_key for row in found.values() if row.segment in first}
            numbers = sorted(found, key=lambda number: found[number].ordering_key not in hurried)[:limit]
            return [waiting for number in numbers if (waiting := self._read(number)) is not None]

    def is_waiting(self, segment: int | None = None) -> bool:
        """Whether a batch of this segment, or any batch, is waiting. Takes no lock and does no I/O."""
        return bool(self._rows) if segment is None else segment in self._segments

    def is_waiting_except(self, keys: Collection[str]) -> bool:
        """Whether a batch with another ordering key is waiting. Takes no lock and does no I/O."""
        return bool(self._keys.keys() - keys)

    def __len__(self) -> int:
        return len(self._rows)

    def addresses(self) -> Mapping[str, int]:
        """The number of waiting batches by store."""
        with self._lock:
            return Counter(self._addresses)

    def done(self, numbers: Sequence[int]) -> None:
        """Remove batches that were sent, or refused permanently."""
        with self._lock:
            self._find_again()
            for number in numbers:
                self._drop(number)
            self._note_done(numbers)

    def close(self) -> bool:
        """Release the file, and remove it if it has no batches left; returns whether it has none left."""
        with self._lock:
            self._find_again()
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None and self.path is not None:
                if not self._rows and not self.unreadable:
                    self.path.unlink(missing_ok=True)
                unlock(descriptor)
            return not self._rows

    @staticmethod
    def leave(folder: Path, name: str, lines: bytes) -> Path:
        """Write a spool for other processes to send; it is there whole, or not at all. Raises OSError."""
        make_folder(folder)
        path = folder / f"{name}{_SUFFIX}"
        for _ in range(_TRIES):
            new_path = path.with_name(f"{path.name}-{uuid.uuid4().hex[:12]}{_COMPACTED_SUFFIX}")
            try:
                descriptor = lock(new_path, os.O_CREAT | os.O_EXCL)
            except SpoolInUse:  # another process cleans up after ended ones, and may remove the new file
                continue
            try:
                write(descriptor, lines, 0)
                new_path.replace(path)
            finally:
                unlock(descriptor)
            return path
        raise OSError("another process took every new file")

    @staticmethod
    def take_back(path: Path) -> None:
        """Remove a spool that no other process is sending. Raises SpoolInUse and OSError."""
        descriptor = lock(path)
        path.unlink()
        unlock(descriptor)

    def _renew(self) -> None:
        """In a forked child: close the copy of the parent's file, without unlocking or changing it."""
        self._lock = threading.Lock()
        # The child's copy of the descriptor would keep the file locked after the end of the parent.
        if self._descriptor is not None and file_of(self._descriptor) == self._file:
            os.close(self._descriptor)
        self._descriptor = None

    def _find_again(self) -> None:
        """Open and lock the file again if the program has closed its descriptor.

        Another process may have taken the unlocked file meanwhile. It then sends the batches in the file.
        """
        if self._descriptor is None or self.path is None or file_of(self._descriptor) == self._file:
            return
        self._descriptor = None
        try:
            self._descriptor = lock_again(self.path, self._file, self._end)
        except OSError as error:
            log_once(
                "the program has closed %s, which cannot be used any more (%s): batches that wait for MLflow are "
                "kept in memory only",
                self.path,
                error,
            )
            for number in [number for number, row in self._rows.items() if row.line is None]:
                self._drop(number)

    def _load(self, descriptor: int) -> None:
        data = read(descriptor)
        offset = 0
        for line in data.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            try:
                self._replay(json.loads(line), offset, len(line))
            except (ValueError, TypeError, KeyError, AttributeError):
                self.unreadable += 1
            offset += len(line)
        # Remove a torn last line: the next line would continue it.
        if offset < len(data):
            os.ftruncate(descriptor, offset)
        self._end = offset

    def _replay(self, record: dict[str, Any], offset: int, size: int) -> None:
        for number in record.get("done", ()):
            self._drop(number)
        if "done" not in record:
            batch, number = decoded(record["batch"]), int(record["id"])
            # Before version 0.2, the address of a server had the user.
            address = store_uri.normalised(record["address"])
            self._add(number, _Row(address, batch.ordering_key, batch.segment, size, offset))
            self._next = max(self._next, number + 1)

    def _add(self, number: int, row: _Row) -> None:
        self._rows[number] = row
        self._segments[row.segment] += 1
        self._addresses[row.address] += 1
        self._keys[row.ordering_key] += 1

    def _append(self, data: bytes) -> int:
        """Write at the end of the file; returns the offset. Raises OSError, and then leaves the end unchanged."""
        if self._descriptor is None:
            raise OSError("there is no file")
        try:
            write(self._descriptor, data, self._end)
        except OSError:
            with contextlib.suppress(OSError):  # if this fails, the next line overwrites the torn one
                os.ftruncate(self._descriptor, self._end)
            raise
        offset, self._end = self._end, self._end + len(data)
        return offset

    def _line(self, row: _Row) -> bytes:
        if row.line is not None:
            return row.line
        if self._descriptor is None:
            raise OSError(f"{self.path} is closed")
        return os.pread(self._descriptor, row.size, row.offset)

    def _read(self, number: int) -> Waiting | None:
        """The batch; if its line has been damaged on the disk, it is dropped with a warning."""
        try:
            return Waiting(number, decoded(json.loads(self._line(self._rows[number]))["batch"]))
        except (ValueError, TypeError, KeyError, AttributeError):
            log_once("a batch in %s was damaged and is lost", self.path)
            self._drop(number)
            return None

    def _drop(self, number: int) -> None:
        row = self._rows.pop(number, None)
        if row is not None:
            _count_down(self._segments, row.segment)
            _count_down(self._addresses, row.address)
            _count_down(self._keys, row.ordering_key)

    def _note_done(self, numbers: Sequence[int]) -> None:
        # A failure here only makes the next process send a batch again.
        with contextlib.suppress(OSError):
            if not self._rows and not self.unreadable and self._descriptor is not None:
                os.ftruncate(self._descriptor, 0)
                self._end = 0
            else:
                self._append(json.dumps({"done": list(numbers)}).encode() + b"\n")
        live = sum(row.size for row in self._rows.values()) if self._end > self._compact_above else 0
        if self._end > max(self._compact_above, 2 * live):
            self._compact()

    def _make_room(self, address: str) -> None:
        """Remove every second checkpoint for a store: curves get coarser, the last state of each segment stays."""
        rows = {number: row for number, row in self._rows.items() if row.address == address}
        newest = {row.segment: number for number, row in rows.items()}
        places: Counter[int] = Counter()
        dropped = []
        for number, row in rows.items():
            places[row.segment] += 1
            if places[row.segment] % 2 == 0 and number != newest[row.segment]:
                dropped.append(number)
        excess = max(0, len(rows) - len(dropped) - LIMIT)
        oldest = sorted(rows.keys() - set(dropped))[:excess]
        if oldest:
            log_once("MLflow has been unreachable for %d runs: the oldest figures are lost", LIMIT)
        for number in dropped + oldest:
            self._drop(number)
        self._note_done(dropped + oldest)

    def _compact(self) -> None:
        """Write the waiting batches to a new file, and replace the old file with it in one step."""
        self._compact_above = self._end + _SLACK_BYTES  # after a failure, do not try again at every batch
        if self._descriptor is None or self.path is None or self.unreadable:
            return
        new_path = self.path.with_name(self.path.name + _COMPACTED_SUFFIX)
        try:
            descriptor = lock(new_path, os.O_CREAT | os.O_EXCL)
        except OSError:
            return
        try:
            lines = [self._line(row) for row in self._rows.values()]
            write(descriptor, b"".join(lines), 0)
            os.fsync(descriptor)
            new_path.replace(self.path)
        except OSError:
            new_path.unlink(missing_ok=True)
            os.close(descriptor)
            return
        unlock(self._descriptor)
        self._descriptor, self._file, self._end = descriptor, file_of(descriptor), 0
        for row, line in zip(self._rows.values(), lines, strict=True):
            row.offset, row.line, self._end = self._end, None, self._end + len(line)
        self._compact_above = self._end + _SLACK_BYTES


def _count_down(counts: Counter[_K], key: _K) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]

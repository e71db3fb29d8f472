"""Delivery of batches to MLflow's tracking stores, in the background.

`put` writes a batch to the spool on the caller's thread, which is the delivery thread of the session.
Uploader threads do all network I/O. There is one for each store, so a store that hangs delays no other. The
condition `_changed` guards the state in memory and is never held over I/O: the application's threads may call
`begin` and `wait`.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from carbon_otel import clock
from carbon_otel.fork import renew_after_fork
from carbon_otel.guard import contain, log_once
from carbon_otel.mlflow import compat
from carbon_otel.mlflow.delivery import store_uri
from carbon_otel.mlflow.delivery.spool import Batch, Spool
from carbon_otel.mlflow.delivery.uploader import Uploader

_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 30.0
# A batch that no thread waits for is held back for this time, so that a short run is written in one call.
_LINGER_S: Final = 0.5
# The exit waits at most this long for a failed store that accepts no batch; its batches are in the spool.
_FAILED_STORE_S: Final = 1.5


@dataclass(slots=True, eq=False)
class _Outlet:
    """The state of delivery to one store. `healthy` is false after a failed upload; `due` is a monotonic time."""

    address: str
    connect: Callable[[], compat.TrackingStore]
    uploader: Uploader | None = None
    pending: bool = False
    busy: bool = False
    due: float = 0.0
    pause_s: float = field(default_factory=lambda: _FIRST_PAUSE_S)
    healthy: bool = True

    @property
    def idle(self) -> bool:
        return not self.pending and not self.busy


class DeliveryWorker:
    """Puts batches in a spool and uploads them."""

    def __init__(self, folder: Path) -> None:
        """`folder` holds the spools of all processes. Does no I/O."""
        self._folder = folder
        self._spool: Spool | None = None
        self._changed = threading.Condition()
        self._outlets: dict[str, _Outlet] = {}
        self._threads = 0
        self._closed = False
        self._awaited: set[int] = set()  # segments for which a thread waits
        self._delivered: set[int] = set()  # segments whose last batch the store has
        self._address_of: dict[int, str] = {}
        self._left_behind = _LeftBehind(folder)
        # Held while the spool is written; only `put` takes it.
        self._putting = threading.Lock()
        # Cached, because a store may look up credentials to give its address.
        self._address_of_store: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
        renew_after_fork(self._renew)

    def _renew(self) -> None:
        """In a forked child: the threads do not exist there, and the spool belongs to the parent."""
        self._changed, self._putting = threading.Condition(), threading.Lock()
        self._spool, self._threads, self._closed = None, 0, True

    @property
    def healthy(self) -> bool:
        """False from a failed upload to any store until the next successful upload to that store."""
        return all(outlet.healthy for outlet in list(self._outlets.values()))

    def begin(self) -> None:
        """Start an uploader thread before the first batch; no thread can be started at interpreter exit."""
        with self._changed:
            if not self._threads and not self._closed:
                self._start_thread()

    def put(self, batch: Batch, store: Any = None) -> None:
        """Write a batch to the spool, for upload to `store`, by default MLflow's current store."""
        self.begin()
        address, connect = self._destination(store)
        with self._putting:
            if self._closed:
                log_once("the figures of %s came after the end of the session and are lost", batch.label)
                return
            if self._spool is None:
                self._spool = Spool.create(self._folder)
            self._spool.put(address, batch)
        with self._changed:
            outlet = self._outlets.get(address)
            if outlet is None:
                outlet = self._outlets[address] = _Outlet(address, connect)
                if self._threads < len(self._outlets):
                    self._start_thread()
            self._address_of[batch.segment] = address
            if outlet.healthy:
                at = 0.0 if batch.segment in self._awaited else clock.monotonic() + _LINGER_S
                outlet.due = min(outlet.due, at) if outlet.pending else at
            outlet.pending = True
            self._changed.notify_all()

    def _destination(self, store: Any) -> tuple[str, Callable[[], compat.TrackingStore]]:
        if store is None:
            uri = sys.modules["mlflow"].get_tracking_uri()
            return store_uri.normalised(uri), lambda: compat.store_at(uri)
        if store not in self._address_of_store:
            self._address_of_store[store] = store_uri.of_store(store)
        return self._address_of_store[store], lambda: store

    def wait(self, timeout_s: float, segment: int | None = None) -> bool:
        """Wait for the upload of all batches, or those of one segment; False if it takes longer than the timeout.

        Returns False at once if the segment's store is failing. Does no I/O.
        """
        with self._changed:
            if segment is None:
                self._send_now(outlet for outlet in self._outlets.values() if outlet.healthy)
                return self._changed.wait_for(self._is_all_written, timeout_s)
            outlet = self._outlets.get(self._address_of.get(segment, ""))
            if outlet is not None and outlet.healthy:
                self._send_now([outlet])
            self._awaited.add(segment)
            self._changed.wait_for(lambda: self._is_written(segment) or self._is_failing(segment), timeout_s)
            self._awaited.discard(segment)
            return self._is_written(segment)

    def flush(self, timeout_s: float) -> bool:
        """Upload everything now, even to stores that have failed; returns whether that succeeded in time."""
        with self._changed:
            self._send_now(self._outlets.values())
        return self.wait(timeout_s)

    def close(self, timeout_s: float) -> None:
        """Upload the waiting batches within the timeout. The next process sends the remaining ones."""
        deadline = clock.monotonic() + timeout_s
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            outlets = list(self._outlets.values()) if self._threads else []
            self._changed.wait_for(lambda: all(o.idle or not o.healthy for o in outlets), timeout_s)
            # A store that had failed gets more time as long as it accepts batches again.
            before, left = -1, self._count()
            is_idle = all(o.idle for o in outlets)
            while not is_idle and left != before and (remaining_s := deadline - clock.monotonic()) > 0:
                pause_s = min(_FAILED_STORE_S, remaining_s)
                is_idle = self._changed.wait_for(lambda: all(o.idle for o in outlets), pause_s)
                before, left = left, self._count()
        if self._spool is not None:
            _warn_of_unsent(self._spool)
            if is_idle:
                self._close_spool()

    def _count(self) -> int:
        return len(self._spool) if self._spool is not None else 0

    def _is_all_written(self) -> bool:
        nothing_waits = self._spool is None or not self._spool.is_waiting()
        return nothing_waits and not any(outlet.busy for outlet in self._outlets.values())

    def _is_written(self, segment: int) -> bool:
        return segment in self._delivered or self._spool is None or not self._spool.is_waiting(segment)

    def _is_failing(self, segment: int) -> bool:
        outlet = self._outlets.get(self._address_of.get(segment, ""))
        return outlet is not None and not outlet.healthy

    def _send_now(self, outlets: Iterable[_Outlet]) -> None:
        for outlet in outlets:
            outlet.due = 0.0
        self._changed.notify_all()

    def _start_thread(self) -> None:
        """Call with `_changed` held. The thread serves any store that is due."""
        name = f"carbon_otel upload {self._threads + 1}"
        try:
            threading.Thread(target=self._run, name=name, daemon=True).start()
        except RuntimeError as error:  # the interpreter is exiting: the existing threads do the work
            log_once("no further thread can be started for uploads to MLflow: %s", error)
        else:
            self._threads += 1

    def _run(self) -> None:
        while (outlet := self._next()) is not None:
            succeeded = contain("uploading to MLflow", False, self._upload, outlet)
            with self._changed:
                outlet.busy, outlet.healthy = False, succeeded
                if succeeded:
                    outlet.pause_s = _FIRST_PAUSE_S
                elif not self._closed:
                    outlet.pending = True
                    outlet.due = clock.monotonic() + outlet.pause_s
                    outlet.pause_s = min(2 * outlet.pause_s, _LONGEST_PAUSE_S)
                self._delivered = {s for s in self._delivered if self._spool and self._spool.is_waiting(s)}
                self._changed.notify_all()
        with self._changed:
            self._threads -= 1
            is_last = self._threads == 0
        if is_last:  # a store may have answered after `close` stopped waiting
            self._close_spool()

    def _next(self) -> _Outlet | None:
        """Wait for a store that is due, and reserve it; None at the end."""
        with self._changed:
            while True:
                waiting = [o for o in self._outlets.values() if o.pending and not o.busy]
                soonest = min(waiting, key=lambda o: o.due, default=None)
                now = clock.monotonic()
                if soonest is not None and (soonest.due <= now or self._closed):
                    soonest.pending, soonest.busy = False, True
                    return soonest
                if self._closed:
                    return None
                self._changed.wait(soonest.due - now if soonest is not None else None)

    def _upload(self, outlet: _Outlet) -> bool:
        assert self._spool is not None
        try:
            if outlet.uploader is None:
                store = compat.separate(outlet.connect())
                # Send the batches of killed processes first: a resumed run continues from them.
                self._left_behind.upload(store, outlet.address)
                outlet.uploader = Uploader(store, self._note_delivered)
            outlet.uploader.send(self._spool, outlet.address)
        except Exception as error:  # noqa: BLE001 - every kind of store raises its own
            log_once(
                "MLflow at %s does not accept the figures of runs (%s: %s); retrying in the background",
                outlet.address,
                type(error).__name__,
                store_uri.printable(str(error)),
                about=outlet.address,
            )
            return False
        return True

    def _note_delivered(self, batch: Batch) -> None:
        with self._changed:
            self._delivered.add(batch.segment)
            self._address_of.pop(batch.segment, None)
            self._changed.notify_all()

    def _close_spool(self) -> None:
        if self._spool is not None:
            contain("closing the spool", False, self._spool.close)


class _LeftBehind:
    """The spools of processes that have ended. Several uploaders may send from one spool at the same time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # Held while local files are read; only uploader threads take it.
        self._lock = threading.Lock()
        self._users: dict[Spool, int] = {}
        renew_after_fork(self._renew)

    def _renew(self) -> None:
        """In a forked child: the thread that held the lock does not exist there."""
        self._lock = threading.Lock()

    def upload(self, store: compat.TrackingStore, address: str) -> None:
        """Send the batches for this store. Raises if the store cannot be reached."""
        with self._borrowed(address) as spools:
            for left in spools:
                uploader = Uploader(store, keeps_refused=True)
                uploader.send(left, address, raise_refusals=False)

    @contextmanager
    def _borrowed(self, address: str) -> Iterator[list[Spool]]:
        borrowed = []
        with self._lock:
            for spool in [*self._users, *Spool.left_in(self._folder)]:
                if address in spool.addresses():
                    self._users[spool] = self._users.get(spool, 0) + 1
                    borrowed.append(spool)
                elif spool not in self._users:
                    spool.close()
        try:
            yield borrowed
        finally:
            with self._lock:
                for spool in borrowed:
                    self._users[spool] -= 1
                    if not self._users[spool]:
                        del self._users[spool]
                        spool.close()


def _warn_of_unsent(spool: Spool) -> None:
    count = len(spool)
    if not count:
        return
    message = f"{count} checkpoints of energy have not reached MLflow"
    if spool.path is None:
        log_once("%s and are lost; set state_dir to a writable folder", message)
    else:
        log_once("%s: they are in %s, and `carbon-otel mlflow sync` sends them", message, spool.path)

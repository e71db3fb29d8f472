"""Delivery of batches to MLflow's tracking stores, in the background.

`put` writes a batch to the spool on the caller's thread, which is the delivery thread of the session.
Uploader threads do all network I/O. There is one for each store, so a store that hangs delays no other. The
condition `_changed` guards the state in memory and is never held over I/O: the application's threads may call
`begin` and `wait`.
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from carbon_otel import clock
from carbon_otel.fork import renew_after_fork
from carbon_otel.guard import contain, log_once
from carbon_otel.mlflow import compat
from carbon_otel.mlflow.delivery import joined_file, store_uri
from carbon_otel.mlflow.delivery.faults import text_of
from carbon_otel.mlflow.delivery.left_behind import LeftBehind
from carbon_otel.mlflow.delivery.spool import Batch, Spool
from carbon_otel.mlflow.delivery.uploader import Uploader
from carbon_otel.mlflow.schema import contributions
from carbon_otel.ranks import group

_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 30.0
# A batch that no thread waits for is held back for this time, so that a short run is written in one call.
_LINGER_S: Final = 0.5
# The exit waits at most this long for a failed store that accepts no batch; its batches are in the spool.
_FAILED_STORE_S: Final = 1.5
# The exit of a rank waits at most this long for the last parts of the others, and looks so often.
_RANKS_S: Final = 2.0
_LOOK_S: Final = 0.05


@dataclass(slots=True, eq=False)
class _Outlet:
    """The state of delivery to one store. Times are in monotonic seconds.

    Attributes:
        given: the store, or its tracking URI, as the application uses it.
        due: when the pending batches are sent.
        healthy: false from a failed upload until the next successful one.
        late: true from a wait in vain until the store has accepted something.
        refused: the ordering keys of the runs that the store does not accept; they are tried again at `again`.
        retry: whether the next upload tries these too.
        resumed: whether the batches of ended processes were sent; `left_tries` counts the attempts.
    """

    address: str
    given: Any
    store: compat.TrackingStore | None = None
    uploader: Uploader | None = None
    pending: bool = False
    busy: bool = False
    due: float = 0.0
    pause_s: float = field(default_factory=lambda: _FIRST_PAUSE_S)
    healthy: bool = True
    late: bool = False
    refused: frozenset[str] = frozenset()
    again: float = math.inf
    retry: bool = False
    resumed: bool = False
    left_tries: int = 0

    @property
    def idle(self) -> bool:
        return not self.pending and not self.busy

    @property
    def next(self) -> float:
        """When its next upload is due; infinite while one is running."""
        if self.busy:
            return math.inf
        return min(self.due if self.pending else math.inf, self.again if self.healthy else math.inf)

    def ended(self, succeeded: bool) -> None:
        """An upload has ended."""
        self.busy, self.healthy = False, succeeded
        if self.uploader is not None:
            faults = self.uploader.faults
            self.refused = frozenset() if self.retry else frozenset(faults)
            self.again = faults.next_due()
        if succeeded:
            self.pause_s, self.late = _FIRST_PAUSE_S, False
        else:
            self.due = clock.monotonic() + self.pause_s
            self.pause_s = min(2 * self.pause_s, _LONGEST_PAUSE_S)


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
        self._owner_of: dict[int, tuple[str, str]] = {}  # the address and the ordering key of a segment
        self._created: set[str] = set()  # the runs that this process has created, and not ended yet
        self._left_behind = LeftBehind(folder)
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
    def addresses(self) -> list[str]:
        """The stores that got batches."""
        with self._changed:
            return [*self._outlets]

    def begin(self) -> None:
        """Start an uploader thread before the first batch; no thread can be started at interpreter exit."""
        with self._changed:
            if not self._threads and not self._closed:
                self._start_thread()

    def put(self, batch: Batch, store: Any) -> None:
        """Write a batch to the spool, for upload to `store`, or to the store at this tracking URI."""
        self.begin()
        address = self._address(store)
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
                outlet = self._outlets[address] = _Outlet(address, store)
                if self._threads < len(self._outlets):
                    self._start_thread()
            elif not outlet.healthy and outlet.given != store:
                # The same store with another password, perhaps.
                outlet.given, outlet.store = store, None
            self._owner_of[batch.segment] = address, batch.ordering_key
            if batch.contribution_id == contributions.CREATOR:
                self._created.add(batch.run_id)
            if outlet.healthy:
                at = 0.0 if batch.segment in self._awaited else clock.monotonic() + _LINGER_S
                outlet.due = min(outlet.due, at) if outlet.pending else at
            outlet.pending = True
            self._changed.notify_all()

    def _address(self, store: Any) -> str:
        if isinstance(store, str):
            return store_uri.normalised(store)
        if store not in self._address_of_store:
            self._address_of_store[store] = store_uri.of_store(store)
        return self._address_of_store[store]

    def wait(self, timeout_s: float, segment: int | None = None) -> bool:
        """Wait for the upload of all batches, or those of one segment; returns whether the stores have them.

        Does not wait for batches that a store refuses; for a segment, not for a store that fails, or that was late
        at the last time, either. Does no I/O.
        """
        with self._changed:
            if segment is None:
                self._send_now(outlet for outlet in self._outlets.values() if outlet.healthy)
                self._changed.wait_for(self._is_all_tried, timeout_s)
                return self._is_all_tried() and (self._spool is None or not self._spool.is_waiting())
            outlet = self._outlet_of(segment)
            if outlet is not None and outlet.healthy:
                self._send_now([outlet])
            self._awaited.add(segment)
            over = self._changed.wait_for(
                lambda: self._is_written(segment) or self.is_failing(segment), timeout_s
            )
            self._awaited.discard(segment)
            if not over and outlet is not None:
                outlet.late = True
            return self._is_written(segment)

    def is_failing(self, segment: int) -> bool:
        """Whether a thread that waits for this segment would probably wait in vain. Takes no lock."""
        address, key = self._owner_of.get(segment, ("", ""))
        outlet = self._outlets.get(address)
        return outlet is not None and (outlet.late or not outlet.healthy or key in outlet.refused)

    def begin_flush(self) -> None:
        """Begin to upload everything, even to stores that have failed; `wait` says whether that has succeeded."""
        with self._changed:
            for outlet in self._outlets.values():
                if outlet.refused:
                    outlet.refused, outlet.retry, outlet.pending = frozenset(), True, True
            self._look_for_parts()
            self._send_now(self._outlets.values())

    def begin_close(self) -> None:
        """Begin to upload the last batches. No further ones are taken, unless `close` waits for other ranks."""
        with self._changed:
            self._look_for_parts()
            if self._waits_for_ranks():
                self._send_now(self._outlets.values())
            else:
                self._take_no_more()

    def _take_no_more(self) -> None:
        """Call with `_changed` held."""
        self._closed = True
        self._changed.notify_all()

    def close(self, timeout_s: float) -> None:
        """Upload the waiting batches within the timeout. The next process sends the remaining ones."""
        deadline = clock.monotonic() + timeout_s
        if self._waits_for_ranks():
            self._wait_for_ranks(min(_RANKS_S, timeout_s / 2))
            timeout_s = max(0.0, deadline - clock.monotonic())
        with self._changed:
            if not self._closed:
                self._look_for_parts()
                self._take_no_more()
            outlets = list(self._outlets.values()) if self._threads else []
            self._changed.wait_for(lambda: all(o.idle or o.late or not o.healthy for o in outlets), timeout_s)
            # A store that had failed, or was late, gets more time as long as it accepts batches.
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

    def _waits_for_ranks(self) -> bool:
        return group.works_together and bool(self._outlets) and not self._closed

    def _wait_for_ranks(self, timeout_s: float) -> None:
        """The other ranks of a training end at about the same time, without a store of their own."""
        deadline = clock.monotonic() + timeout_s
        while (left_s := deadline - clock.monotonic()) > 0:
            with self._changed:
                outlets = [outlet for outlet in self._outlets.values() if outlet.healthy and not outlet.late]
                for outlet in outlets:
                    outlet.pending = True
                self._send_now(outlets)
                self._changed.wait_for(lambda: all(o.idle or not o.healthy for o in outlets), left_s)  # noqa: B023
            if not self._left_behind.lacks_ranks():
                return
            time.sleep(_LOOK_S)

    def _look_for_parts(self) -> None:
        """Call with `_changed` held. Processes may have added to a run of this one since its last upload."""
        for outlet in self._outlets.values():
            outlet.pending |= outlet.healthy

    def _count(self) -> int:
        return len(self._spool) if self._spool is not None else 0

    def _is_all_tried(self) -> bool:
        """Whether the stores have all batches but those that they refuse."""
        if any(outlet.busy or (outlet.pending and outlet.healthy) for outlet in self._outlets.values()):
            return False
        refused = frozenset[str]().union(*(outlet.refused for outlet in self._outlets.values()))
        return self._spool is None or not self._spool.is_waiting_except(refused)

    def _is_written(self, segment: int) -> bool:
        return segment in self._delivered or self._spool is None or not self._spool.is_waiting(segment)

    def _outlet_of(self, segment: int) -> _Outlet | None:
        address, _ = self._owner_of.get(segment, ("", ""))
        return self._outlets.get(address)

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
                outlet.ended(succeeded)
                outlet.pending |= not succeeded and not self._closed
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
                # At the end, runs that were refused are left to the next process.
                outlets = [o for o in self._outlets.values() if o.pending or not self._closed]
                soonest = min(outlets, key=lambda outlet: outlet.next, default=None)
                at = math.inf if soonest is None else soonest.next
                now = clock.monotonic()
                if soonest is not None and (at <= now or (self._closed and at < math.inf)):
                    soonest.pending, soonest.busy = False, True
                    return soonest
                if self._closed:
                    return None
                self._changed.wait(None if at == math.inf else at - now)

    def _upload(self, outlet: _Outlet) -> bool:
        try:
            self._send(outlet)
        except Exception as error:  # noqa: BLE001 - every kind of store raises its own
            log_once(
                "MLflow at %s does not accept the figures of runs (%s); retrying in the background",
                outlet.address,
                text_of(error),
                about=outlet.address,
            )
            return False
        return True

    def _send(self, outlet: _Outlet) -> None:
        assert self._spool is not None
        if outlet.store is None:
            given = outlet.given
            outlet.store = compat.separate(compat.store_at(given) if isinstance(given, str) else given)
            outlet.uploader = None
        if outlet.uploader is None:
            outlet.uploader = Uploader(outlet.store, self._note_delivered)
        left_error = self._send_left_behind(outlet, outlet.store)
        if outlet.retry:
            outlet.retry = False
            outlet.uploader.faults.retry()
        sent = outlet.uploader.send(self._spool, outlet.address, self._urgent)
        if left_error is not None and not sent:
            raise left_error
        outlet.resumed = True

    def _send_left_behind(self, outlet: _Outlet, store: compat.TrackingStore) -> Exception | None:
        """Send the batches of ended processes, before those of this one: a resumed run continues from them.

        Later on, send only the parts of other processes in the runs of this one, whose last batches have the sums.
        The first error is raised, as the store may just be down. A later one is returned, since a batch that
        always fails must not hold those of this process.
        """
        try:
            prefix = joined_file.PREFIX if outlet.resumed else ""
            self._left_behind.upload(store, outlet.address, prefix, self._is_open, self._created.__contains__)
        except Exception as error:
            outlet.left_tries += 1
            if outlet.left_tries == 1:
                raise
            return error
        return None

    def _is_open(self, run_id: str) -> bool:
        """Whether this process has still to write the last batch of this run."""
        with self._changed:
            return any(key == run_id for _, key in self._owner_of.values())

    def _urgent(self) -> frozenset[int]:
        with self._changed:
            return frozenset(self._awaited)

    def _note_delivered(self, batch: Batch) -> None:
        with self._changed:
            self._delivered.add(batch.segment)
            self._created.discard(batch.run_id)
            address, _ = self._owner_of.pop(batch.segment, ("", ""))
            if address in self._outlets:
                self._outlets[address].late = False
            self._changed.notify_all()

    def _close_spool(self) -> None:
        if self._spool is not None:
            contain("closing the spool", False, self._spool.close)


def _warn_of_unsent(spool: Spool) -> None:
    count = len(spool)
    if not count:
        return
    message = f"{count} checkpoints of energy have not reached MLflow"
    if spool.path is None:
        log_once("%s and are lost; set state_dir to a writable folder", message)
    else:
        log_once("%s: they are in %s, and `carbon-otel mlflow sync` sends them", message, spool.path)

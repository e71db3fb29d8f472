"""The thread that writes to MLflow's tracking stores, so that a slow or dead server holds up nobody.

What is put goes to the outbox on disk first, so neither a server that is away nor a kill loses it.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

from carbon_otel.guard import contain, logger, warn_once
from carbon_otel.mlflow.delivery import store_uri
from carbon_otel.mlflow.delivery.spool import Batch, Spool
from carbon_otel.mlflow.delivery.uploader import Uploader, store_at

_LONGEST_PAUSE_S: Final = 30.0
# How long the end waits for a server that has failed, and takes nothing now: the outbox has everything.
_FAREWELL_S: Final = 1.5


class DeliveryWorker:
    """Writes batches in the background; `healthy` is False from a failed write to the next good one."""

    def __init__(self, folder: Path) -> None:
        """`folder` is where outboxes are."""
        self.healthy = True
        self._folder = folder
        self._box: Spool | None = None
        self._stores: dict[str, Any] = {}
        self._senders: dict[str, Uploader] = {}
        self._changed = threading.Condition()
        self._new = self._closed = False
        self._ended = threading.Event()
        # Segments whose last batch the store has, while their run is being described.
        self._taken: set[int] = set()

    def begin(self) -> None:
        """Open the outbox and start the thread, if that has not been done: at exit no thread can be started."""
        with self._changed:
            if self._box is None and not self._closed:
                self._box = Spool.create(self._folder)
                threading.Thread(target=self._run, name="carbon_otel mlflow", daemon=True).start()

    def put(self, batch: Batch, store: Any = None) -> None:
        """Have a batch written: to this store, by default to MLflow's present one."""
        self.begin()
        if store is None:
            uri = sys.modules["mlflow"].get_tracking_uri()
            where = store_uri.normalised(uri)
            self._stores.setdefault(where, uri)
        else:
            where = store_uri.of_store(store)
            self._stores[where] = store
        with self._changed:
            if self._box is not None:
                self._box.put(where, batch)
                self._new = True
                self._changed.notify_all()

    def wait(self, timeout_s: float, segment: int | None = None) -> bool:
        """Until this segment's last batch, or everything, is written; False if that took longer."""
        with self._changed:
            return self._changed.wait_for(lambda: self._is_written(segment), timeout_s)

    def flush(self, timeout_s: float) -> bool:
        return self.wait(timeout_s)

    def close(self, timeout_s: float) -> None:
        """Wait for what is pending; the thread ends once it is written, or refused."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            box = self._box
        deadline = time.monotonic() + timeout_s
        left_s, rest = timeout_s, self._rest()
        while box is not None and not self._ended.wait(left_s if self.healthy else min(left_s, _FAREWELL_S)):
            left_s = deadline - time.monotonic()
            now = self._rest()
            if left_s <= 0 or now == rest:
                _warn_of_rest(now, box)
                return
            rest = now

    def _rest(self) -> int:
        with self._changed:
            return sum(self._box.addresses().values()) if self._box is not None else 0

    def _is_written(self, segment: int | None) -> bool:
        if self._box is None:
            return True
        waiting = self._box.segments()
        return not waiting if segment is None else segment not in waiting - self._taken

    def _run(self) -> None:
        box = self._box
        assert box is not None
        pause_s = 1.0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._new or self._closed)
                self._new, closed = False, self._closed
            self.healthy = contain("writing to MLflow", self._send, False, box)
            with self._changed:
                self._taken &= box.segments()
                self._changed.notify_all()
            if closed:
                break
            if not self.healthy:
                self._pause(pause_s)
            pause_s = 1.0 if self.healthy else min(2 * pause_s, _LONGEST_PAUSE_S)
        _warn_of_rest(self._rest(), box)
        with self._changed:
            self._box = None
            self._changed.notify_all()
        contain("closing the outbox", box.close, False)
        self._ended.set()

    def _pause(self, seconds: float) -> None:
        """Before everything is tried again."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed, seconds)
            self._new = True

    def _send(self, box: Spool) -> bool:
        """Everything that can be; whether nothing is left."""
        done = True
        for where in box.addresses():
            try:
                self._sender(where).send(box, where)
            except Exception as error:  # noqa: BLE001 - whatever the store raises, the program goes on
                done = False
                warn_once(
                    f"mlflow:{where}",
                    f"MLflow at {where} does not take the energy of runs ({type(error).__name__}: {error}); "
                    "trying again in the background",
                )
        return done

    def _sender(self, where: str) -> Uploader:
        from mlflow.exceptions import MlflowException, RestException

        sender = self._senders.get(where)
        if sender is None:
            store = self._stores[where]
            if isinstance(store, str):
                store = store_at(store)
            # First what killed processes have left: a run that is resumed goes on from there.
            for left in Spool.left_in(self._folder):
                try:
                    Uploader(store, keeps_refused=True).send(left, where)
                except RestException:
                    # The server is there, but refuses some run of theirs: no reason for ours to wait.
                    logger.debug("a part of %s is refused", left.path, exc_info=True)
                except (MlflowException, OSError):
                    raise
                except Exception as error:  # noqa: BLE001 - nor is what nobody can make sense of
                    warn_once(f"outbox:{left.path}", f"{left.path} cannot be sent: {error!r}")
                finally:
                    left.close()
            sender = self._senders[where] = Uploader(store, self._note_taken)
        return sender

    def _note_taken(self, batch: Batch) -> None:
        with self._changed:
            self._taken.add(batch.segment)
            self._changed.notify_all()


def _warn_of_rest(rest: int, box: Spool) -> None:
    if not rest:
        return
    what = f"{rest} checkpoints of energy have not reached MLflow"
    if box.path is None:
        warn_once("outbox left", f"{what} and are lost; set state_dir to a folder that can be written")
    else:
        warn_once("outbox left", f"{what}: they are in {box.path}, and `carbon-otel mlflow sync` sends them")

"""Upload of the batches that ended processes have left on disk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from carbon_otel.fork import renew_after_fork
from carbon_otel.mlflow import compat
from carbon_otel.mlflow.delivery.joined_file import PREFIX
from carbon_otel.mlflow.delivery.spool import Spool
from carbon_otel.mlflow.delivery.uploader import Uploader

# The batches of this process wait meanwhile. `carbon-otel mlflow sync` tries all runs.
_MOST_REFUSED: Final = 20


class LeftBehind:
    """The spools of processes that have ended. Several uploaders may send from one spool at the same time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # Held while local files are read; only uploader threads take it.
        self._lock = threading.Lock()
        self._users: dict[Spool, int] = {}
        # The parts of other ranks that were not the last ones, by the ids of their contributions.
        self._unfinished: Set[str] = frozenset()
        renew_after_fork(self._renew)

    def _renew(self) -> None:
        """In a forked child: the thread that held the lock does not exist there."""
        self._lock = threading.Lock()

    def upload(
        self,
        store: compat.TrackingStore,
        address: str,
        prefix: str = "",
        may_be_over: Callable[[str], bool] = lambda run_id: True,
    ) -> None:
        """Send the batches for this store, from files whose names begin with `prefix`; see `Uploader`.

        Raises if the store cannot be reached.
        """
        with self._borrowed(address, prefix) as spools:
            for left in spools:
                ranks = _rank_parts(left, address)
                Uploader(store, may_be_over=may_be_over).send(left, address, most_refused=_MOST_REFUSED)
                self._unfinished = (self._unfinished | ranks.keys()) - {
                    part for part, final in ranks.items() if final
                }

    def lacks_ranks(self) -> bool:
        """Whether a rank has left a part that was not its last one."""
        return bool(self._unfinished)

    @contextmanager
    def _borrowed(self, address: str, prefix: str) -> Iterator[list[Spool]]:
        borrowed = []
        with self._lock:
            for spool in [*self._users, *Spool.left_in(self._folder, prefix)]:
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


def _rank_parts(left: Spool, address: str) -> Mapping[str, bool]:
    """The contribution of a rank in the file of a joined run, and whether it is the last one."""
    if left.path is None or not left.path.name.startswith(PREFIX):
        return {}
    batches = (row.batch for row in left.waiting(address))
    return {batch.contribution_id: batch.final for batch in batches if batch.rank}

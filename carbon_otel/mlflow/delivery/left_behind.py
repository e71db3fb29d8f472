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
        # The contributions of others to runs that this process has created, by the run; their places are numbers.
        self._parts: dict[str, list[str]] = {}
        renew_after_fork(self._renew)

    def _renew(self) -> None:
        """In a forked child: the thread that held the lock does not exist there."""
        self._lock = threading.Lock()

    def upload(
        self,
        store: compat.TrackingStore,
        address: str,
        prefix: str,
        is_open: Callable[[str], bool],
        is_created: Callable[[str], bool],
    ) -> None:
        """Send the batches for this store, from files whose names begin with `prefix`.

        `is_open` says of the id of a run whether this process has still to write the last batch of it, and
        `is_created` whether it has created that run. Raises if the store cannot be reached.
        """

        def number_of(run_id: str, contribution_id: str) -> str:
            return self._number_of(run_id, contribution_id) if is_created(run_id) else ""

        with self._borrowed(address, prefix) as spools:
            for left in spools:
                ranks = _rank_parts(left, address)
                uploader = Uploader(store, of_ended=True, is_open=is_open, number_of=number_of)
                uploader.send(left, address, most_refused=_MOST_REFUSED)
                self._unfinished = (self._unfinished | ranks.keys()) - {
                    part for part, final in ranks.items() if final
                }

    def _number_of(self, run_id: str, contribution_id: str) -> str:
        """A number that only this process gives, so that no other one can write to the same tag."""
        with self._lock:
            parts = self._parts.setdefault(run_id, [])
            if contribution_id not in parts:
                parts.append(contribution_id)
            return str(parts.index(contribution_id) + 1)

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

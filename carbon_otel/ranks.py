"""Which rank of a distributed training this process is, and what the ranks of it know of each other.

torchrun and accelerate say the rank in the environment; else a process learns it when its process group is made
(`instrumentation/torch_ranks.py`). No rank waits for another one: rank 0 leaves a word on a board, and the others
look there from time to time.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from carbon_otel.fork import renew_after_fork

# What all ranks do together: a training of 100 steps has 100 steps, however many ranks it has.
TOGETHER: Final = frozenset({"steps", "epochs"})
_STATIC: Final = "none"  # torchrun's id of a job that nobody has named


class Rank(NamedTuple):
    """A rank among several. `local_rank` is that on its host; None if nobody has told it."""

    rank: int
    world_size: int
    local_rank: int | None = None


class Board(Protocol):
    """Where rank 0 leaves a word for the others. A call may wait for a network, and raise its errors."""

    def write(self, word: str) -> None: ...

    def read(self) -> str | None:
        """The word of rank 0; None if there is none."""


class Group:
    """The ranks of this process's training, as it knows them.

    Attributes:
        rank: the rank of this process; None if it is not one of several.
        board: the board of the process group, while there is one.
        works_together: whether there has been a process group.
        step_wait_s: the mean seconds for which a step of this rank has waited for the gradients of the others, as
            far as that was learned; None if nobody knows.
        ask_step_wait_s: asks for it; on the application's threads only, because it calls PyTorch.
        changed: called once a process group is made (True), and before it is destroyed (False). None raises.
    """

    def __init__(self) -> None:
        self.rank: Rank | None = None
        self.board: Board | None = None
        self.works_together = False
        self.ask_step_wait_s: Callable[[], float | None] = _unknown
        self.step_wait_s: float | None = None
        self.changed: list[Callable[[bool], None]] = []

    def look(self, environment: Mapping[str, str] = os.environ) -> Rank | None:
        """The rank of this process, also by its environment."""
        if self.rank is None:
            self.rank = rank_in(environment)
        return self.rank

    @functools.cached_property
    def trace_id(self) -> int | None:
        """The trace of the ranks; None if each has its own until it knows that of rank 0."""
        return _trace_id(os.environ)

    def made(self, rank: Rank | None, board: Board | None) -> None:
        """The process group of this process is there."""
        self.rank, self.board, self.works_together = rank, board, rank is not None
        self._tell(True)

    def leave(self) -> None:
        """The process group will be destroyed."""
        self.learn_step_wait()
        self._tell(False)
        self.board = None

    def learn_step_wait(self) -> None:
        """Ask how long steps wait, as long as there is a model that knows."""
        found = self.ask_step_wait_s()
        if found is not None:
            self.step_wait_s = found

    def summed(self, units: Mapping[str, float]) -> Mapping[str, float]:
        """The units that may be added to those of the other ranks: rank 0 counts what all do together."""
        if not self.works_together or self.rank is None or self.rank.rank == 0:
            return units
        return {unit: amount for unit, amount in units.items() if unit not in TOGETHER}

    def _tell(self, there: bool) -> None:
        for call in tuple(self.changed):
            call(there)


def rank_in(environment: Mapping[str, str]) -> Rank | None:
    """The rank that torchrun, or another launcher with its variables, gives to a process; None without one."""
    rank, size, local = (_number(environment, name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if rank is None or size is None or not 0 <= rank < size or size == 1:
        return None
    return Rank(rank, size, local)


def _trace_id(environment: Mapping[str, str]) -> int | None:
    """The trace id of all ranks of a job of torchrun, and of no other job; None if nothing tells the job apart.

    A job that begins again after a failure is another one, and so is one of the same name: torchrun looks for a
    free port. A job without a name is told by the process that starts its ranks, if they are on one host.
    """
    job = environment.get("TORCHELASTIC_RUN_ID", "")
    if not job or rank_in(environment) is None:
        return None
    if job == _STATIC:
        if environment.get("LOCAL_WORLD_SIZE") != environment.get("WORLD_SIZE"):
            return None
        job = f"{os.getppid()}/{_began(os.getppid())}"
    names = "TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT"
    text = "/".join(["carbon_otel", job, *(environment.get(name, "") for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big") or None


def _began(pid: int) -> str:
    """The start time of a process, in ticks since the boot; empty where there is no /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _number(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name, "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 8 else None


def _unknown() -> None:
    """Nobody knows."""


# The ranks that this process works with.
group: Final = Group()


def _renew() -> None:
    """A forked child works for the rank that it was forked from. The board and its connection are the parent's."""
    group.board, group.ask_step_wait_s = None, _unknown
    group.changed.clear()


renew_after_fork(_renew)

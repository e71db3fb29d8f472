"""The word that rank 0 leaves for the other ranks: its latest runs, and since when it has had each of them.

The others may look late, after a run and a training in it have ended. So the word has times, by the clock of rank
0's host. They are compared with the times of trainings on other hosts: such a training is in the run that has most
of its time, so that a difference between the clocks matters only for one that takes no longer.
"""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Final, NamedTuple

from carbon_otel.handover import RUN as RUN_VARIABLE

# As many changes as a look may be late for.
_MOST: Final = 16

Variables = dict[str, str]


class Since(NamedTuple):
    """From this time on, in nanoseconds since the epoch, rank 0 has the run with these variables; {} is none."""

    unix_ns: int
    variables: Variables

    @property
    def run(self) -> str:
        """The id of the run and the address of its store; empty without a run."""
        return self.variables.get(RUN_VARIABLE, "")


NOTHING: Final = Since(0, {})


class Word(NamedTuple):
    """What rank 0 has had, the oldest first; `is_last` if no run is to be expected after them."""

    changes: tuple[Since, ...] = (NOTHING,)
    is_last: bool = True

    @classmethod
    def of_text(cls, text: str) -> Word:
        """The word that another rank has found."""
        changes, is_last = json.loads(text)
        return cls(tuple(Since(unix_ns, variables) for unix_ns, variables in changes), is_last)

    def text(self) -> str:
        """The word as rank 0 leaves it."""
        return json.dumps(self)

    def noted(self, variables: Variables, unix_ns: int) -> Word:
        """The word, after rank 0 has seen that it has the run with these variables since then."""
        now = Since(max(unix_ns, self.now.unix_ns), variables if RUN_VARIABLE in variables else {})
        return self if self.now.run == now.run else self._replace(changes=(*self.changes, now)[-_MOST:])

    @property
    def now(self) -> Since:
        """What rank 0 has now."""
        return self.changes[-1]

    def longest(self, from_ns: int, to_ns: int) -> Since:
        """The run in which rank 0 was for the longest part of this time; `NOTHING` if it was in none."""
        most, found = 0, NOTHING
        for since, after in pairwise((*self.changes, Since(to_ns, {}))):
            shared_ns = min(after.unix_ns, to_ns) - max(since.unix_ns, from_ns)
            if since.run and shared_ns > most:
                most, found = shared_ns, since
        return found

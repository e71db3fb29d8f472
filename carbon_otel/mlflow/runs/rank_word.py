"""The word that rank 0 leaves for the other ranks: its latest runs, and since when it has had each of them.

The others may look late, after a run and a training in it have ended. So the word has times, by the clock of rank
0's host. They are compared with the times of trainings on other hosts, of which a run has the longest part; a
difference between the clocks matters only for a training that takes less.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
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


def noted(word: Sequence[Since], variables: Variables, unix_ns: int) -> tuple[Since, ...]:
    """The word, after rank 0 has seen that it has the run with these variables since then."""
    last, now = latest(word), Since(unix_ns, variables if RUN_VARIABLE in variables else {})
    if last.run == now.run:
        return tuple(word)
    return (*word, now._replace(unix_ns=max(unix_ns, last.unix_ns)))[-_MOST:]


def latest(word: Sequence[Since]) -> Since:
    """What rank 0 has now."""
    return word[-1] if word else NOTHING


def longest(word: Sequence[Since], from_ns: int, to_ns: int) -> Since:
    """What rank 0 had for most of the part of this time in which it had a run; `NOTHING` if it had none."""
    most, found = 0, NOTHING
    for since, after in pairwise((*word, Since(to_ns, {}))):
        shared_ns = min(after.unix_ns, to_ns) - max(since.unix_ns, from_ns)
        if since.run and shared_ns > most:
            most, found = shared_ns, since
    return found


def to_text(word: Sequence[Since]) -> str:
    """The word as rank 0 leaves it."""
    return json.dumps(word)


def of_text(text: str) -> tuple[Since, ...]:
    """The word that another rank has found."""
    return tuple(Since(unix_ns, variables) for unix_ns, variables in json.loads(text))

"""The division of shared resources among the measured processes of a host, in one book.

Each resource (the host's processors, a cgroup's, a GPU) has members that use it. At any moment their shares add
up to one: the idle part is divided equally, the active part by the CPU time of the process trees. Active is
the part of the time of its threads in which they ran. The book keeps each member's share integrated over time, in
share-seconds. The first process that looks in a tick updates the book for all members, at one moment and from
one set of CPU times; the others read consistent figures, however late they look.

    sum over the members of their share-seconds = seconds in which the resource had a member

A member that dies without leaving gets no part of the interval in which it died: the other members are charged.

Process trees are walked before the members' lock is taken: a walk may take long on a busy host, and every member
waits for the lock. The book has the time of its CPU times, so an older walk never replaces a newer one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from carbon_otel import clock
from carbon_otel.host.membership import Membership
from carbon_otel.host.process_tree import Processes, Spent, Tree, host_processes, spent_ns
from carbon_otel.units import NS_PER_S, S_PER_NS

_FILE: Final = "split.json"
# A book newer than this is up to date, because all processes tick together.
_FRESH_NS: Final = NS_PER_S // 20


@dataclass(slots=True)
class Member:
    """A process that uses some of the resources.

    `uses` names the resources and the hardware threads of each (0: not a processor), `sums` has their
    share-seconds, `spent` the CPU times of the process tree at the last update of the book.
    """

    uses: dict[str, float]
    sums: dict[str, float]
    spent: Tree = field(default_factory=dict)


@dataclass(slots=True)
class UsageBook:
    """The members by process id, at a moment of the monotonic clock."""

    at_ns: int
    members: dict[int, Member]

    def settle(self, at_ns: int, trees: Mapping[int, Tree]) -> None:
        """Add the interval up to `at_ns` to the sums of every member, given the process trees of that moment.

        A member without a tree has joined since the trees were walked; its CPU time counts at the next update.
        """
        seconds = (at_ns - self.at_ns) * S_PER_NS
        self.at_ns = max(self.at_ns, at_ns)
        ran_s = dict.fromkeys(self.members, 0.0)
        for pid, after in trees.items():
            member = self.members.get(pid)
            if member is not None:
                if member.spent and after:
                    ran_s[pid] = spent_ns(member.spent, after) * S_PER_NS
                member.spent = after
        if seconds <= 0:
            return
        for resource in {resource for member in self.members.values() for resource in member.uses}:
            users = {pid: member for pid, member in self.members.items() if resource in member.uses}
            threads = max(member.uses[resource] for member in users.values())
            ran = {pid: ran_s[pid] if threads else 0.0 for pid in users}
            total = sum(ran.values())
            active = min(1.0, total / (seconds * threads)) if total > 0 else 0.0
            for pid, member in users.items():
                share = (1 - active) / len(users) + (active * ran[pid] / total if total > 0 else 0.0)
                member.sums[resource] = member.sums.get(resource, 0.0) + share * seconds

    def to_json(self) -> str:
        """The book as text."""
        members = {pid: [m.uses, m.sums, m.spent] for pid, m in self.members.items()}
        return json.dumps([self.at_ns, members], separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> UsageBook:
        """The book in a text. Raises ValueError, TypeError, AttributeError or KeyError for any other text."""
        at_ns, members = json.loads(text)
        return cls(int(at_ns), {int(pid): _member(*columns) for pid, columns in members.items()})


class SharedUse:
    """This process's shares of its resources, by the book that all members keep together.

    `uses` names the resources of this process and the hardware threads of each, 0 for all but processors.
    """

    def __init__(
        self,
        membership: Membership,
        uses: Mapping[str, float],
        now_ns: int,
        processes: Processes | None = None,
        clock_ns: Callable[[], int] = clock.monotonic_ns,
    ) -> None:
        self._membership = membership
        self._uses = dict(uses)
        self._processes = processes or host_processes()
        self._clock_ns = clock_ns
        self._at_ns = now_ns
        self._sums = dict.fromkeys(self._uses, 0.0)
        self._shares = dict.fromkeys(self._uses, 1.0)
        self.others: frozenset[int] = frozenset()
        self.look(now_ns)

    def look(self, now_ns: int) -> Mapping[str, float]:
        """This process's share of each resource since the last call."""
        if self._membership.quiet() and not self.others:
            self._advance(now_ns, {r: s + (now_ns - self._at_ns) * S_PER_NS for r, s in self._sums.items()})
        else:
            began_ns, trees = self._walk()
            with self._membership.locked() as held:
                if held:
                    self._consult(began_ns, trees)
        return self._shares

    def leave(self) -> None:
        """Settle the part of this process until now; from then on the other members are charged."""
        began_ns, trees = self._walk()
        with self._membership.locked() as held:
            if held:
                book = self._load()
                self._settle(book, began_ns, trees)
                book.members.pop(self._membership.pid, None)
                self._save(book)

    def _walk(self) -> tuple[int, dict[int, Tree]]:
        """The begin of the walk, and the process trees of the members and of this process.

        No tree is walked if the book was just updated and this process is in it.
        """
        began_ns = self._clock_ns()
        if self._membership.folder is None:
            return began_ns, {}
        book, pid = self._load(), self._membership.pid
        if pid in book.members and began_ns - book.at_ns < _FRESH_NS:
            return began_ns, {}
        return began_ns, self._processes.trees({*book.members, pid}, book.members.keys())

    def _consult(self, began_ns: int, trees: Mapping[int, Tree]) -> None:
        book = self._load()
        known = set(book.members)
        own = book.members.get(self._membership.pid)
        joining = own is None or own.uses != self._uses
        stale = began_ns - book.at_ns >= _FRESH_NS
        if joining or stale or any(not self._membership.alive(pid) for pid in known):
            self._settle(book, began_ns, trees)
        if own is None or joining:
            own = book.members[self._membership.pid] = Member(self._uses, dict(self._sums))
            own.spent = trees.get(self._membership.pid, {})
        self.others = frozenset(book.members.keys() - {self._membership.pid})
        # A process alone gets all of the time; the book need not be updated.
        if self.others or book.members.keys() != known:
            self._save(book)
        if joining:
            # The book does not have the time before: begin with equal shares.
            self._at_ns = book.at_ns
            users = [member.uses for member in book.members.values()]
            self._shares = {r: 1 / sum(r in uses for uses in users) for r in self._uses}
        else:
            self._advance(book.at_ns, own.sums)

    def _advance(self, at_ns: int, sums: Mapping[str, float]) -> None:
        seconds = (at_ns - self._at_ns) * S_PER_NS
        if seconds > 0:
            for resource, then in self._sums.items():
                self._shares[resource] = min(1.0, max(0.0, (sums.get(resource, then) - then) / seconds))
            self._at_ns, self._sums = at_ns, dict(sums)

    def _settle(self, book: UsageBook, began_ns: int, trees: Mapping[int, Tree]) -> None:
        for pid in list(book.members):
            if not self._membership.alive(pid):
                del book.members[pid]
        # Another member has walked later and updated the book to a later moment.
        if book.at_ns <= began_ns:
            book.settle(self._clock_ns(), trees)

    def _load(self) -> UsageBook:
        assert self._membership.folder is not None
        try:
            return UsageBook.from_json((self._membership.folder / _FILE).read_text())
        except (OSError, ValueError, TypeError, AttributeError, KeyError):
            return UsageBook(self._clock_ns(), {})

    def _save(self, book: UsageBook) -> None:
        """Replace the file in one step, so that a kill leaves the old file."""
        assert self._membership.folder is not None
        fresh = self._membership.folder / f"{_FILE}.new"
        try:
            _write(fresh, book.to_json())
            fresh.replace(self._membership.folder / _FILE)
        except OSError:
            # The disk is full: every member keeps its last shares until the book can be written again.
            fresh.unlink(missing_ok=True)


def _member(uses: Any, sums: Any, spent: Any) -> Member:
    return Member(
        {str(r): float(n) for r, n in uses.items()},
        {str(r): float(s) for r, s in sums.items()},
        {
            int(pid): Spent(int(own), int(reaped), bool(foreign))
            for pid, (own, reaped, foreign) in spent.items()
        },
    )


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)

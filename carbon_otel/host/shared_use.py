"""The division of shared resources among the measured processes of a host, in one book.

Each resource (the host's processors, a cgroup's, a GPU) has members that use it. At any moment their shares add
up to one: the idle part is divided equally, the active part by the CPU time of the process trees. Active is
the part of the time of its threads in which they ran. The book keeps each member's share integrated over time, in
share-seconds. The first process that looks in a tick updates the book for all members, at one moment and from
one set of CPU times; the others read consistent figures, however late they look.

    sum over the members of their share-seconds = seconds in which the resource had a member

A member that dies without leaving gets no part of the interval in which it died: the other members are charged.

Containers that share the folder cannot see the CPU times of each other. So the members of each process id
namespace walk their own trees; when a member of another namespace updates the book, their last rates count.

Process trees are walked before the members' lock is taken: a walk may take long on a busy host, and every member
waits for the lock. The book has the times of the walks, so an older walk never replaces a newer one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from carbon_otel import clock
from carbon_otel.host.identity import ProcessName
from carbon_otel.host.membership import Membership
from carbon_otel.host.process_tree import Processes, Spent, Tree, host_processes, spent_ns
from carbon_otel.private_files import open_file
from carbon_otel.units import NS_PER_S, S_PER_NS

_FILE: Final = "split.json"
# A book newer than this is up to date, because all processes tick together.
_FRESH_NS: Final = NS_PER_S // 20
# Processes tick at least every 30 s.
_LONGEST_NS: Final = 60 * NS_PER_S


@dataclass(slots=True)
class Member:
    """A process that uses some of the resources.

    `uses` names the resources and the hardware threads of each (0: not a processor), `sums` has their
    share-seconds, `spent` the CPU times of the process tree at the moment `walked_ns`, and `rate` the CPU seconds
    per second before that.
    """

    uses: dict[str, float]
    sums: dict[str, float]
    spent: Tree = field(default_factory=dict)
    walked_ns: int = 0
    rate: float = 0.0


@dataclass(slots=True)
class UsageBook:
    """The members by name, at a moment of the monotonic clock."""

    at_ns: int
    members: dict[str, Member]

    def settle(self, at_ns: int, trees: Mapping[str, Tree]) -> None:
        """Add the interval up to `at_ns` to the sums of every member, given some process trees of that moment.

        A member without a tree is one of another namespace, or has joined since the trees were walked.
        """
        seconds = (at_ns - self.at_ns) * S_PER_NS
        self.at_ns = max(self.at_ns, at_ns)
        for name, after in trees.items():
            member = self.members.get(name)
            if member is not None:
                since_s = (at_ns - member.walked_ns) * S_PER_NS
                known = member.spent and after and since_s > 0
                member.rate = spent_ns(member.spent, after) * S_PER_NS / since_s if known else 0.0
                member.spent, member.walked_ns = after, at_ns
        if seconds <= 0:
            return
        for resource in {resource for member in self.members.values() for resource in member.uses}:
            users = [member for member in self.members.values() if resource in member.uses]
            threads = max(member.uses[resource] for member in users)
            # The rate of a member that was not walked for so long, such as a stopped one, says nothing any more.
            rates = [m.rate if threads and at_ns - m.walked_ns < _LONGEST_NS else 0.0 for m in users]
            total = sum(rates)
            active = min(1.0, total / threads) if total > 0 else 0.0
            for member, rate in zip(users, rates, strict=True):
                share = (1 - active) / len(users) + (active * rate / total if total > 0 else 0.0)
                member.sums[resource] = member.sums.get(resource, 0.0) + share * seconds

    def to_json(self) -> str:
        """The book as text."""
        members = {name: [m.uses, m.sums, m.spent, m.walked_ns, m.rate] for name, m in self.members.items()}
        return json.dumps([self.at_ns, members], separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> UsageBook:
        """The book in a text. Raises ValueError, TypeError, AttributeError or KeyError for any other text."""
        at_ns, members = json.loads(text)
        return cls(int(at_ns), {_named(name): _member(*columns) for name, columns in members.items()})


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
        self._others: frozenset[str] = frozenset()
        self.look(now_ns)

    @property
    def visible(self) -> frozenset[int]:
        """The process ids of the other members that this process can see."""
        return frozenset(self._visible(self._others).values())

    def look(self, now_ns: int) -> Mapping[str, float]:
        """This process's share of each resource since the last call."""
        self._membership.meet()
        if self._membership.quiet() and not self._others:
            self._advance(now_ns, {r: s + (now_ns - self._at_ns) * S_PER_NS for r, s in self._sums.items()})
        else:
            try:
                began_ns, trees = self._walk()
            except OSError:  # this process cannot read the others now: its last shares stay
                return self._shares
            with self._membership.locked() as held:
                if held:
                    self._consult(began_ns, trees)
        return self._shares

    def leave(self) -> None:
        """Settle the part of this process until now; from then on the other members are charged."""
        try:
            began_ns, trees = self._walk()
        except OSError:  # this process leaves without its last CPU time
            began_ns, trees = self._clock_ns(), {}
        with self._membership.locked() as held:
            if held:
                book = self._load()
                self._settle(book, began_ns, trees)
                book.members.pop(self._membership.name, None)
                self._save(book)

    def _walk(self) -> tuple[int, dict[str, Tree]]:
        """The begin of the walk, and the process trees of the members that this process can see, and its own.

        No tree is walked if a member has just done so. Raises OSError.
        """
        began_ns = self._clock_ns()
        if self._membership.folder is None:
            return began_ns, {}
        book, process = self._load(), self._membership.process
        if not self._is_stale(book, began_ns):
            return began_ns, {}
        visible = self._visible(book.members)
        trees = self._processes.trees({*visible.values(), process.pid}, visible.values())
        return began_ns, {
            name: trees[pid] for name, pid in {**visible, self._membership.name: process.pid}.items()
        }

    def _visible(self, members: Iterable[str]) -> dict[str, int]:
        """The process ids of the members in the namespace of this process, by name."""
        names = filter(None, map(ProcessName.parse, members))
        own = self._membership.process.namespace
        return {str(name): name.pid for name in names if name.namespace == own}

    def _is_stale(self, book: UsageBook, now_ns: int) -> bool:
        """Whether the CPU times of the members that this process can see are older than a tick."""
        own = book.members.get(self._membership.name)
        return own is None or now_ns - own.walked_ns >= _FRESH_NS

    def _consult(self, began_ns: int, trees: Mapping[str, Tree]) -> None:
        book, name = self._load(), self._membership.name
        known = set(book.members)
        own = book.members.get(name)
        joining = own is None or own.uses != self._uses
        stale = self._is_stale(book, began_ns)
        if joining or stale or any(not self._membership.alive(member) for member in known):
            self._settle(book, began_ns, trees)
        if own is None or joining:
            own = book.members[name] = Member(self._uses, dict(self._sums))
            own.spent, own.walked_ns = trees.get(name, {}), book.at_ns
        self._others = frozenset(book.members.keys() - {name})
        # A process alone gets all of the time; the book need not be updated.
        if self._others or book.members.keys() != known:
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

    def _settle(self, book: UsageBook, began_ns: int, trees: Mapping[str, Tree]) -> None:
        for name in list(book.members):
            if not self._membership.alive(name):
                del book.members[name]
        walks = [book.members[name].walked_ns for name in self._visible(book.members)]
        # Otherwise another member has walked later.
        if max(walks, default=0) <= began_ns:
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


def _named(name: str) -> str:
    if ProcessName.parse(name) is None:
        raise ValueError(f"{name!r} is no process")
    return name


def _member(uses: Any, sums: Any, spent: Any, walked_ns: Any, rate: Any) -> Member:
    return Member(
        {str(r): float(n) for r, n in uses.items()},
        {str(r): float(s) for r, s in sums.items()},
        {
            int(pid): Spent(int(own), int(reaped), bool(foreign))
            for pid, (own, reaped, foreign) in spent.items()
        },
        int(walked_ns),
        float(rate),
    )


def _write(path: Path, text: str) -> None:
    with os.fdopen(open_file(path, os.O_WRONLY | os.O_CREAT), "w") as file:
        file.truncate()
        file.write(text)

"""How the measured processes of a host split what they share: one ledger, so that their parts add up to one.

Each resource (the host's processors, a cgroup's, a GPU) has members that use it. At any moment their shares add
up to one: its idle part is split equally, its active part by the CPU time of their process trees, where active
is what they ran of the time that its threads had. The ledger keeps each member's share integrated over time,
in share-seconds. Whoever looks first brings it up to date for all, at one moment and from one set of CPU
times; what the others find there is therefore of one piece, however late they look.

    sum over the members of their share-seconds = seconds in which the resource had a member

Who dies without leaving has no part in the interval in which it died: the living have paid for it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from carbon_otel.host.membership import Membership
from carbon_otel.host.process_tree import Spent, Tree, spent_ns, tree
from carbon_otel.units import NS_PER_S, S_PER_NS

_FILE: Final = "split.json"
# Who finds the ledger younger than this takes it as it is: all processes tick together.
_FRESH_NS: Final = NS_PER_S // 20


@dataclass(slots=True)
class Member:
    """`uses` names the resources and the hardware threads of each (0: not a processor), `sums` has their
    share-seconds, `spent` the CPU times of the process tree when the ledger was last brought up to date.
    """

    uses: dict[str, float]
    sums: dict[str, float]
    spent: Tree = field(default_factory=dict)


@dataclass(slots=True)
class UsageBook:
    """The members by process id, as of a moment of the monotonic clock."""

    at_ns: int
    members: dict[int, Member]

    def settle(self, now_ns: int, trees: Mapping[int, Tree]) -> None:
        """Add to everybody's sums the interval that ends now, given the process trees of now."""
        seconds = (now_ns - self.at_ns) * S_PER_NS
        self.at_ns = max(self.at_ns, now_ns)
        ran_s = {}
        for pid, member in self.members.items():
            after = trees.get(pid, {})
            ran_s[pid] = spent_ns(member.spent, after) * S_PER_NS if member.spent and after else 0.0
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
        members = {pid: [m.uses, m.sums, m.spent] for pid, m in self.members.items()}
        return json.dumps([self.at_ns, members], separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> UsageBook:
        """Raises ValueError, TypeError, AttributeError or KeyError on what no ledger is."""
        at_ns, members = json.loads(text)
        return cls(int(at_ns), {int(pid): _member(*parts) for pid, parts in members.items()})


class SharedUse:
    """This process's part in the ledger.

    `uses` names the resources of this process and the hardware threads of each, 0 for what is no processor.
    """

    def __init__(
        self,
        peers: Membership,
        uses: Mapping[str, float],
        now_ns: int,
        look_at: Callable[[int, Collection[int]], Tree] = tree,
    ) -> None:
        self._peers = peers
        self._uses = dict(uses)
        self._look_at = look_at
        self._at_ns = now_ns
        self._sums = dict.fromkeys(self._uses, 0.0)
        self._shares = dict.fromkeys(self._uses, 1.0)
        self.others: frozenset[int] = frozenset()
        self.look(now_ns)

    def look(self, now_ns: int) -> Mapping[str, float]:
        """By resource, our share of the time since the last look."""
        if self._peers.quiet() and not self.others:
            self._advance(now_ns, {r: s + (now_ns - self._at_ns) * S_PER_NS for r, s in self._sums.items()})
        else:
            with self._peers.locked() as held:
                if held:
                    self._consult(now_ns)
        return self._shares

    def leave(self, now_ns: int) -> None:
        """Settle what is ours until now; from then on the others pay."""
        with self._peers.locked() as held:
            if held:
                ledger = self._load(now_ns)
                self._settle(ledger, now_ns)
                ledger.members.pop(self._peers.pid, None)
                self._save(ledger)

    def _consult(self, now_ns: int) -> None:
        ledger = self._load(now_ns)
        known = set(ledger.members)
        us = ledger.members.get(self._peers.pid)
        joining = us is None or us.uses != self._uses
        stale = now_ns - ledger.at_ns >= _FRESH_NS
        if joining or stale or any(not self._peers.alive(pid) for pid in known):
            self._settle(ledger, now_ns)
        if us is None or joining:
            us = ledger.members[self._peers.pid] = Member(self._uses, dict(self._sums))
            us.spent = self._look_at(self._peers.pid, ledger.members.keys())
        self.others = frozenset(ledger.members.keys() - {self._peers.pid})
        # Alone, the time that passes is ours without anybody's writing it down.
        if self.others or ledger.members.keys() != known:
            self._save(ledger)
        if joining:
            # What was before is not in the ledger: the shares are those to begin with.
            self._at_ns = ledger.at_ns
            users = [member.uses for member in ledger.members.values()]
            self._shares = {r: 1 / sum(r in uses for uses in users) for r in self._uses}
        else:
            self._advance(ledger.at_ns, us.sums)

    def _advance(self, at_ns: int, sums: Mapping[str, float]) -> None:
        seconds = (at_ns - self._at_ns) * S_PER_NS
        if seconds > 0:
            for resource, then in self._sums.items():
                self._shares[resource] = min(1.0, max(0.0, (sums.get(resource, then) - then) / seconds))
            self._at_ns, self._sums = at_ns, dict(sums)

    def _settle(self, ledger: UsageBook, now_ns: int) -> None:
        for pid in list(ledger.members):
            if not self._peers.alive(pid):
                del ledger.members[pid]
        pids = ledger.members.keys()
        ledger.settle(now_ns, {pid: self._look_at(pid, pids) for pid in pids})

    def _load(self, now_ns: int) -> UsageBook:
        assert self._peers.folder is not None
        try:
            return UsageBook.from_json((self._peers.folder / _FILE).read_text())
        except (OSError, ValueError, TypeError, AttributeError, KeyError):
            return UsageBook(now_ns, {})

    def _save(self, ledger: UsageBook) -> None:
        """Replace the file in one step, so that who is killed here leaves the old one."""
        assert self._peers.folder is not None
        fresh = self._peers.folder / f"{_FILE}.new"
        try:
            _write(fresh, ledger.to_json())
            fresh.replace(self._peers.folder / _FILE)
        except OSError:
            # A full disk: everybody keeps the shares of before until it can be written again.
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

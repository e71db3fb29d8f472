"""Several processes divide shared resources: their shares add up to one while processes join, leave and die."""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carbon_otel.host.membership import Membership
from carbon_otel.host.process_tree import Spent
from carbon_otel.host.shared_use import Member, SharedUse, UsageBook
from tests.fakes.clock import NS, Clock

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs flock and /proc")


class Host:
    """Simulated processes with real membership files and locks, on a virtual clock."""

    def __init__(self, base) -> None:
        self.base = base
        self.clock = Clock()
        self.cpu_ns: dict[int, int] = {}
        self.splits: dict[int, SharedUse] = {}
        self.peers: dict[int, Membership] = {}
        self.paid_s: dict[str, float] = {}
        self.since_ns: dict[int, int] = {}
        self.walks = 0
        self.while_walking = None

    def join(self, pid: int, uses: dict[str, float]) -> None:
        self._becoming(pid)
        self.cpu_ns.setdefault(pid, 0)
        self.peers[pid] = Membership("host", self.base)
        self.splits[pid] = SharedUse(self.peers[pid], uses, self.clock(), self, self.clock)
        self.since_ns[pid] = self.clock()

    def look(self, pid: int) -> dict[str, float]:
        shares = dict(self.splits[pid].look(self.clock()))
        seconds = (self.clock() - self.since_ns[pid]) / NS
        self.since_ns[pid] = self.clock()
        for resource, share in shares.items():
            self.paid_s[resource] = self.paid_s.get(resource, 0.0) + share * seconds
        return shares

    def leave(self, pid: int) -> None:
        self.look(pid)
        self.splits.pop(pid).leave()
        self._becoming(pid)
        self.peers.pop(pid).leave()

    def kill(self, pid: int) -> None:
        """Close its descriptors and leave its file. Its share since its last call is lost."""
        del self.splits[pid]
        os.close(self.peers.pop(pid)._own)

    def run(self, seconds: float, **busy: float) -> None:
        self.clock.advance(seconds)
        for pid, cpu in busy.items():
            self.cpu_ns[int(pid[1:])] += round(cpu * NS)

    def end(self) -> None:
        for pid in list(self.splits):
            self.leave(pid)

    def trees(self, roots, foreign=()):
        self.walks += 1
        if self.while_walking is not None:
            meanwhile, self.while_walking = self.while_walking, None
            meanwhile()
        return {pid: {pid: Spent(self.cpu_ns[pid], 0)} for pid in roots}

    def _becoming(self, pid: int) -> None:
        self.patch.setattr("carbon_otel.host.membership.os.getpid", lambda: pid)


@pytest.fixture
def host(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        host = Host(tmp_path)
        host.patch = patch
        yield host
        host.end()


CPU = {"host": 2.0}


def test_a_process_alone_has_all_resources(host):
    host.join(1, {"host": 2.0, "GPU-a": 0.0})
    for _ in range(5):
        host.run(1, p1=0.3)
        assert host.look(1) == {"host": 1.0, "GPU-a": 1.0}


def test_idle_time_is_divided_equally_and_active_time_by_cpu_time(host):
    host.join(1, CPU)
    host.join(2, CPU)
    host.look(1)
    host.run(1, p1=0.9, p2=0.3)
    # 1.2 of 2 thread-seconds: 60 % active, divided 3 to 1.
    assert host.look(1)["host"] == pytest.approx(0.4 / 2 + 0.6 * 0.75)
    assert host.look(2)["host"] == pytest.approx(0.4 / 2 + 0.6 * 0.25)
    host.run(1)
    assert host.look(2)["host"] == pytest.approx(0.5)


def test_a_gpu_is_divided_among_the_processes_that_see_it(host):
    host.join(1, {"host": 2.0, "GPU-a": 0.0, "GPU-b": 0.0})
    host.join(2, {"host": 2.0, "GPU-a": 0.0})
    host.look(1)
    host.run(1, p1=2)
    assert host.look(1) == pytest.approx({"host": 1.0, "GPU-a": 0.5, "GPU-b": 1.0})
    assert host.look(2) == pytest.approx({"host": 0.0, "GPU-a": 0.5})


def test_different_cgroups_share_nothing(host):
    host.join(1, {"/a": 1.0})
    host.join(2, {"/b": 1.0})
    host.run(1, p1=1)
    assert host.look(1) == {"/a": 1.0}
    assert host.look(2) == {"/b": 1.0}


def test_a_process_that_joins_and_leaves_between_two_looks_of_another_counts_once(host):
    host.join(1, CPU)
    host.run(1)
    host.look(1)
    host.run(0.25)
    host.join(2, CPU)
    host.run(0.5, p2=0.5)
    host.leave(2)
    host.run(0.25)
    # All of the first half second. In the second half, half of the idle half; the active half goes to the other
    # process.
    assert host.look(1)["host"] == pytest.approx(0.5 + 0.5 * 0.25)
    assert host.paid_s["host"] == pytest.approx(2.0)


def test_the_others_pay_for_a_killed_process(host):
    host.join(1, CPU)
    host.join(2, CPU)
    host.run(1)
    assert host.look(1)["host"] == pytest.approx(0.5)
    host.run(1)
    host.kill(2)
    assert host.look(1)["host"] == pytest.approx(1.0)
    host.run(1)
    assert host.look(1)["host"] == 1.0


def test_process_trees_are_walked_without_the_lock(host):
    host.join(1, CPU)
    host.join(2, CPU)
    host.look(1)
    answers = []

    def another_process():
        with host.peers[2].locked() as held:
            answers.append(held)

    host.run(1)
    host.while_walking = another_process
    host.look(1)
    assert answers == [True]


def test_an_older_walk_does_not_replace_a_newer_one(host):
    host.join(1, CPU)
    host.join(2, CPU)
    host.run(1, p1=1)

    def another_process():
        host.run(0.5, p1=0.5)
        host.look(2)
        host.cpu_ns[1] -= NS // 2  # the joining process has walked earlier

    host.while_walking = another_process
    host.join(3, CPU)
    host.cpu_ns[1] += NS // 2
    host.look(1)
    host.run(1)
    # Nothing ran in the last second. With the older walk in the book, process 1 would have run half of it.
    assert host.look(1)["host"] == pytest.approx(1 / 3)


def test_members_that_tick_together_walk_the_trees_once(host):
    for pid in (1, 2, 3):
        host.join(pid, CPU)
    host.run(1)
    before = host.walks
    for pid in (1, 2, 3):
        host.look(pid)
    assert host.walks == before + 1


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b"\xff\xfe", b"[1, {}, 2]", b'[1, {"7": [[], {}, {}]}]', b"null"]
)
def test_an_unreadable_book_is_replaced(content, host):
    host.join(1, CPU)
    host.join(2, CPU)
    host.look(1)
    host.run(1, p1=1)
    (ledger,) = host.base.rglob("split.json")
    ledger.write_bytes(content)
    for pid in (1, 2, 1, 2):
        host.look(pid)
    host.run(1, p1=1)
    assert host.look(1)["host"] == pytest.approx(0.75)
    assert host.look(2)["host"] == pytest.approx(0.25)


STEP = st.tuples(
    st.sampled_from(["join", "leave", "look", "run", "run"]), st.integers(1, 4), st.floats(0.06, 2)
)


@settings(max_examples=60, deadline=None)
@given(st.lists(STEP, max_size=25))
def test_the_host_is_paid_once_however_processes_join_and_leave(tmp_path_factory, steps):
    with pytest.MonkeyPatch.context() as patch:
        host = Host(tmp_path_factory.mktemp("host"))
        host.patch = patch
        host.join(9, CPU)  # one process is always there
        begin = host.clock()
        for step, pid, amount in steps:
            if step == "run":
                host.run(amount, **{f"p{p}": amount / (p + 1) for p in host.splits})
            elif step == "join" and pid not in host.splits:
                host.join(pid, CPU)
            elif step == "leave" and pid in host.splits:
                host.leave(pid)
            elif step == "look" and pid in host.splits:
                host.look(pid)
        host.end()
        assert host.paid_s["host"] == pytest.approx((host.clock() - begin) / NS, rel=1e-9, abs=1e-9)


@given(
    st.floats(0.001, 100),
    st.lists(st.tuples(st.floats(0, 1000), st.booleans()), min_size=1, max_size=8),
    st.floats(0.1, 128),
)
def test_shares_add_up_for_any_cpu_times(seconds, members, threads):
    ledger = UsageBook(
        0,
        {
            pid: Member({"host": threads, **({"gpu": 0.0} if sees else {})}, {}, {pid: Spent(0, 0)})
            for pid, (_, sees) in enumerate(members)
        },
    )
    trees = {pid: {pid: Spent(int(cpu * NS), 0)} for pid, (cpu, _) in enumerate(members)}
    now_ns = int(seconds * NS)
    ledger = UsageBook.from_json(ledger.to_json())
    ledger.settle(now_ns, trees)
    for resource in {r for m in ledger.members.values() for r in m.uses}:
        sums = [m.sums[resource] for m in ledger.members.values() if resource in m.uses]
        assert min(sums) >= 0
        assert sum(sums) == pytest.approx(now_ns / NS, rel=1e-9)

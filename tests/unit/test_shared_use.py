"""Several processes divide shared resources: their shares add up to one while processes join, leave and die."""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carbon_otel.host.identity import ProcessName
from carbon_otel.host.membership import Membership
from carbon_otel.host.process_tree import Spent
from carbon_otel.host.shared_use import Member, SharedUse, UsageBook
from tests.fakes.clock import NS, Clock

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs flock and /proc")


class Host:
    """Simulated processes with real membership files and locks, on a virtual clock.

    The number of a process is its id in its container, plus ten times the number of the container.
    """

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

    def join(self, number: int, uses: dict[str, float]) -> None:
        self.cpu_ns.setdefault(number, 0)
        container = number // 10
        name = ProcessName(number % 10, f"{container}", "1")
        self.patch.setattr("carbon_otel.host.membership.this_process", lambda: name)
        self.peers[number] = Membership("host", self.base)
        visible = Visible(self, container)
        self.splits[number] = SharedUse(self.peers[number], uses, self.clock(), visible, self.clock)
        self.since_ns[number] = self.clock()

    def look(self, number: int) -> dict[str, float]:
        shares = dict(self.splits[number].look(self.clock()))
        seconds = (self.clock() - self.since_ns[number]) / NS
        self.since_ns[number] = self.clock()
        for resource, share in shares.items():
            self.paid_s[resource] = self.paid_s.get(resource, 0.0) + share * seconds
        return shares

    def leave(self, number: int) -> None:
        self.look(number)
        self.splits.pop(number).leave()
        self.peers.pop(number).leave()

    def kill(self, number: int) -> None:
        """Close its descriptors and leave its file. Its share since its last call is lost."""
        del self.splits[number]
        os.close(self.peers.pop(number)._own)

    def run(self, seconds: float, **busy: float) -> None:
        self.clock.advance(seconds)
        for number, cpu in busy.items():
            self.cpu_ns[int(number[1:])] += round(cpu * NS)

    def end(self) -> None:
        for number in list(self.splits):
            self.leave(number)


class Visible:
    """The processes that those of one container can see."""

    def __init__(self, host: Host, container: int) -> None:
        self.host, self.container = host, container

    def trees(self, roots, foreign=()):
        self.host.walks += 1
        if self.host.while_walking is not None:
            meanwhile, self.host.while_walking = self.host.while_walking, None
            meanwhile()
        return {pid: {pid: Spent(self.host.cpu_ns[10 * self.container + pid], 0)} for pid in roots}


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


def test_two_containers_with_the_same_process_ids_divide_the_host(host):
    """They share the folder, and cannot see the CPU times of each other."""
    host.join(11, CPU)
    host.join(21, CPU)
    begin = host.clock()
    host.look(11)
    for _ in range(20):
        host.run(0.5, p11=0.45, p21=0.15)
        host.look(11)
        host.run(0.5, p11=0.45, p21=0.15)
        host.look(21)
    assert host.look(11)["host"] + host.look(21)["host"] == pytest.approx(1)
    # 1.2 of 2 thread-seconds: 60 % active, divided 3 to 1, although each knows only its own CPU time.
    for number, share in ((11, 0.4 / 2 + 0.6 * 0.75), (21, 0.4 / 2 + 0.6 * 0.25)):
        host.run(1, p11=0.9, p21=0.3)
        assert host.look(number)["host"] == pytest.approx(share, rel=0.02)
    host.leave(11), host.leave(21)
    assert host.paid_s["host"] == pytest.approx((host.clock() - begin) / NS)


def test_containers_that_tick_together_both_report_their_cpu_time(host):
    host.join(11, CPU)
    host.join(21, CPU)
    for _ in range(5):
        host.run(1, p11=0.5, p21=0.5)
        host.look(11)
        host.clock.advance(0.001)
        host.look(21)
    assert host.look(21)["host"] == pytest.approx(0.5, rel=0.01)


def test_a_stopped_process_of_another_container_is_charged_no_cpu_time_for_ever(host):
    host.join(11, CPU)
    host.join(21, CPU)
    host.run(1, p21=2)
    host.look(21)
    host.look(11)
    for _ in range(61):
        host.run(1, p11=1)
        host.look(11)
    host.run(1, p11=1)
    assert host.look(11)["host"] == pytest.approx(0.75)


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
    "content",
    [
        b"",
        b"[]",
        b"{",
        b"\xff\xfe",
        b"[1, {}, 2]",
        b'[1, {"7": [{}, {}, {}, 0, 0]}]',
        b'[1, {"7.1.1": [[], {}, {}, 0, 0]}]',
        b"null",
    ],
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
    st.sampled_from(["join", "leave", "look", "run", "run"]),
    st.sampled_from([1, 2, 11, 12]),
    st.floats(0.06, 2),
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
            f"{pid}.1.1": Member({"host": threads, **({"gpu": 0.0} if sees else {})}, {}, {pid: Spent(0, 0)})
            for pid, (_, sees) in enumerate(members)
        },
    )
    trees = {f"{pid}.1.1": {pid: Spent(int(cpu * NS), 0)} for pid, (cpu, _) in enumerate(members)}
    now_ns = int(seconds * NS)
    ledger = UsageBook.from_json(ledger.to_json())
    ledger.settle(now_ns, trees)
    for resource in {r for m in ledger.members.values() for r in m.uses}:
        sums = [m.sums[resource] for m in ledger.members.values() if resource in m.uses]
        assert min(sums) >= 0
        assert sum(sums) == pytest.approx(now_ns / NS, rel=1e-9)

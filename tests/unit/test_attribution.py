"""The process's share of the host: cgroups, other members, the process tree."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from carbon_otel.host.attribution import Attribution, TreeShare
from carbon_otel.host.cgroup import Reservation, host_threads, reservation
from carbon_otel.host.membership import Membership
from carbon_otel.host.process_tree import Spent, Tree, host_processes, spent_ns
from carbon_otel.sensors.base import ProcessUse
from carbon_otel.sensors.proc_stat import BusyTime
from tests.fakes.clock import NS, Clock
from tests.fakes.sensors import gpu, package

HZ = os.sysconf("SC_CLK_TCK")


def cgroup(base: Path, own: str, files: dict[str, str]) -> tuple[Path, Path]:
    """A cgroup file system, and the file with this process's cgroup."""
    root, membership = base / "cgroup", base / "self-cgroup"
    root.mkdir()
    membership.write_text(own)
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root, membership


V2 = "0::/user.slice/job.scope\n"
V1 = "5:cpuset:/docker/c1\n3:cpu,cpuacct:/docker/c1\n1:name=systemd:/docker/c1\n"


@pytest.mark.parametrize(
    ("own", "files", "share"),
    [
        (V2, {}, 1.0),
        (V2, {"user.slice/job.scope/cpu.max": "200000 100000\n"}, 2 / 8),
        (V2, {"user.slice/job.scope/cpu.max": "max 100000\n"}, 1.0),
        (
            V2,
            {"user.slice/cpu.max": "50000 100000\n", "user.slice/job.scope/cpu.max": "max 100000\n"},
            0.5 / 8,
        ),
        (V2, {"user.slice/job.scope/cpuset.cpus.effective": "0-2,7\n"}, 4 / 8),
        (V2, {"cpu.max": "300000 100000\n", "user.slice/job.scope/cpuset.cpus.effective": "0-1\n"}, 2 / 8),
        (V2, {"user.slice/job.scope/cpu.max": "1600000 100000\n"}, 1.0),
        ("0::/\n", {"cpu.max": "100000 100000\n"}, 1 / 8),
        (
            V1,
            {"cpu/docker/c1/cpu.cfs_quota_us": "150000", "cpu/docker/c1/cpu.cfs_period_us": "100000"},
            1.5 / 8,
        ),
        (V1, {"cpu/docker/c1/cpu.cfs_quota_us": "-1", "cpu/docker/c1/cpu.cfs_period_us": "100000"}, 1.0),
        (V1, {"cpuset/docker/c1/cpuset.effective_cpus": "3\n"}, 1 / 8),
        (V1, {"systemd/docker/c1/cpu.max": "100000 100000"}, 1.0),
        ("", {"cpu.max": "100000 100000\n"}, 1.0),
        ("nonsense\n:::\n0::\n", {}, 1.0),
        (V2, {"user.slice/job.scope/cpu.max": "0 0\n"}, 1.0),
        (
            V2,
            {"user.slice/job.scope/cpu.max": "?\n", "user.slice/job.scope/cpuset.cpus.effective": "x-y,\n"},
            1.0,
        ),
    ],
)
def test_reserved_share(own, files, share, tmp_path):
    assert reservation(8, *cgroup(tmp_path, own, files)).share == share


def test_the_size_of_the_host_does_not_depend_on_the_environment(tmp_path, monkeypatch):
    """Python 3.13 takes the number of processors from PYTHON_CPU_COUNT."""
    online = tmp_path / "online"
    online.write_text("0-3,8-11\n")
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert host_threads(online) == 8
    assert host_threads(tmp_path / "nothing") == 3


class Stat:
    """A /proc/stat that a test writes, in seconds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.busy = self.idle = self.stolen = 0.0
        self.run(100, 900)

    def run(self, busy: float, idle: float, stolen: float = 0.0) -> None:
        self.busy, self.idle, self.stolen = self.busy + busy, self.idle + idle, self.stolen + stolen
        user, waited = round(self.busy * HZ), round(self.idle * HZ)
        self.path.write_text(f"cpu  {user} 0 0 {waited} 0 0 0 {round(self.stolen * HZ)} 0 0\ncpu0 1 2 3\n")


@pytest.fixture
def stat(tmp_path):
    return Stat(tmp_path / "stat")


def test_the_tightest_cgroup_is_named(tmp_path):
    own = cgroup(
        tmp_path, V2, {"user.slice/cpu.max": "50000 100000", "user.slice/job.scope/cpu.max": "max 100000"}
    )
    assert reservation(8, *own) == Reservation(0.5, str(own[0] / "user.slice"), 8)


def attribution(rule, stat, base, clock, share=1.0, use=None):
    devices = [package(clock).device, gpu(clock).device]
    peers = Membership("host", base)
    reserved = Reservation(8 * share, "host", 8)
    return Attribution(rule, devices, reserved, peers, BusyTime(stat.path), clock(), use or {}, clock)


def test_a_process_alone_has_its_reservation_and_the_whole_gpu(stat, tmp_path):
    clock = Clock()
    rule = attribution("reserved", stat, tmp_path, clock, share=0.25)
    assert rule.present.devices == (0.25, 1.0)
    clock.advance(1)
    assert rule.measure(clock(), tick=True).devices == (0.25, 1.0)
    assert rule.present.reserved == 0.25
    rule.leave()


def test_by_cpu_time_the_share_of_the_host_is_that_of_the_tree(stat, tmp_path):
    clock = Clock()
    rule = attribution("process", stat, tmp_path, clock)
    burn(0.05)
    stat.run(busy=10, idle=10)
    clock.advance(1)
    shares = rule.measure(clock(), tick=False)
    assert shares.devices == (shares.process, 1.0)
    assert 0.05 / 20 * 1.5 <= shares.process < 1
    assert shares.reserved == 1.0
    rule.leave()


@pytest.mark.parametrize(
    ("running", "share"),
    [
        ({os.getpid(): 0.75, 1: 0.25}, 0.75),
        (
            {os.getpid(): 0.3, 1: 0.1},
            0.4 * 0.75 + 0.6,
        ),  # idle for the remaining time, and no other process is measured
        ({1: 1.0}, 0.0),
        ({}, 1.0),
        (None, 1.0),
    ],
)
def test_a_gpu_is_shared_by_its_running_processes_where_the_driver_reports_them(
    running, share, stat, tmp_path
):
    clock = Clock()
    rule = attribution(
        "process", stat, tmp_path, clock, use={"GPU-0": lambda: running and ProcessUse(running, 5)}
    )
    stat.run(busy=1, idle=1)
    clock.advance(1)
    assert rule.measure(clock(), tick=True).devices[1] == pytest.approx(share)
    rule.leave()


@pytest.mark.parametrize(("rule", "measured"), [("reserved", 0), ("process", 10)])
def test_edges_measure_only_under_the_cpu_time_rule_and_at_most_ten_times_a_second(
    rule, measured, stat, tmp_path
):
    clock = Clock()
    shares = attribution(rule, stat, tmp_path, clock)
    results = []
    for _ in range(100):
        results.append(shares.measure(clock(), tick=False))
        clock.advance(0.01)
    assert len([each for each in results if each is not None]) == measured
    assert shares.measure(clock(), tick=True) is not None
    shares.leave()


def test_no_share_is_measured_in_a_time_that_is_shorter_than_the_units_of_processor_time(stat):
    rule = TreeShare(os.getpid(), BusyTime(stat.path), host_processes(), 0, 0.5)
    stat.run(busy=0.02, idle=0)  # of others
    assert rule.look(10_000_000) == 0.5
    burn(0.02)
    stat.run(busy=0.02, idle=0.36)
    assert 0.02 / 0.4 <= rule.look(NS) < 0.5  # in the whole time


def tree(pid: int, foreign: set[int] = frozenset()) -> Tree:
    return host_processes().trees([pid], foreign)[pid]


def test_an_edge_does_not_wait_for_the_measurement_of_a_tick(stat, tmp_path):
    clock = Clock()
    edge_shares = []

    def gpu_use():  # called during the measurement of a tick
        clock.advance(1)
        with ThreadPoolExecutor(1) as other:
            edge_shares.append(other.submit(shares.measure, clock(), tick=False).result(60))

    shares = attribution("process", stat, tmp_path, clock, use={"GPU-0": gpu_use})
    clock.advance(1)
    assert shares.measure(clock(), tick=True) is not None
    assert edge_shares == [None]
    shares.leave()


def test_the_process_share_follows_from_the_cpu_time_of_the_tree(stat):
    earliest = tree(os.getpid())
    rule = TreeShare(os.getpid(), BusyTime(stat.path), host_processes(), 0)
    before = tree(os.getpid())
    burn(0.02)
    stat.run(busy=10, idle=10)
    least = spent_ns(before, tree(os.getpid())) / NS
    share = rule.look(NS)
    most = spent_ns(earliest, tree(os.getpid())) / NS + 0.02
    # c (2 - u), with c the share of 20 s of capacity and u = 0.5
    assert least / 20 * 1.5 <= share * (1 + 1e-9) <= most / 20 * 1.5
    assert least >= 0.01


def test_a_tree_that_ran_longer_than_the_coarse_busy_time_has_all_of_it(stat):
    rule = TreeShare(os.getpid(), BusyTime(stat.path), host_processes(), 0)
    burn(0.05)
    stat.run(busy=0.01, idle=0.99)
    share = rule.look(NS)
    assert 0.05 * 1.9 < share < 1


def test_the_process_share_is_unknown_while_busy_time_is(stat):
    rule = TreeShare(os.getpid(), BusyTime(stat.path), host_processes(), 0)
    stat.run(busy=1, idle=0)
    known = rule.look(NS)
    assert known is not None
    assert rule.look(NS) == known
    stat.path.write_text("")
    assert rule.look(2 * NS) is None


@pytest.mark.parametrize(
    ("before", "after", "spent"),
    [
        ({1: Spent(10, 0)}, {1: Spent(15, 0)}, 5),
        ({1: Spent(10, 0)}, {1: Spent(10, 0), 2: Spent(7, 0)}, 7),
        # It started and ended between two calls.
        ({1: Spent(10, 0)}, {1: Spent(10, 9)}, 9),
        # It was read at 7, ended at 9, and its parent waited for it.
        ({1: Spent(10, 0), 2: Spent(7, 0)}, {1: Spent(10, 9)}, 2),
        # The time of a grandchild passes through its parent.
        ({1: Spent(10, 0), 2: Spent(7, 3)}, {1: Spent(10, 12)}, 2),
        # It ended and no parent waited for it: the time that was counted stays.
        ({1: Spent(10, 0), 2: Spent(7, 0)}, {1: Spent(11, 0)}, 1),
        # A child that is measured separately is not counted, even after its end.
        ({1: Spent(10, 0), 2: Spent(7, 0, True)}, {1: Spent(12, 0), 2: Spent(30, 0, True)}, 2),
        ({1: Spent(10, 0), 2: Spent(30, 0, True)}, {1: Spent(12, 31)}, 3),
        # A new process has the same id.
        ({1: Spent(10, 0), 2: Spent(NS, 0)}, {1: Spent(10, NS + 8), 2: Spent(4, 0)}, 12),
        # A clock that steps back by less than its resolution is not another process.
        ({1: Spent(10 * NS, 0)}, {1: Spent(10 * NS - 9, 0)}, 0),
    ],
)
def test_the_cpu_time_of_a_tree_between_two_looks(before, after, spent):
    assert spent_ns(before, after) == spent


def test_living_and_dead_children_are_in_the_tree():
    before = tree(os.getpid())
    program = "import time, sys\nwhile time.process_time() < 0.2: pass\nprint(flush=True)\nsys.stdin.read()"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        living = tree(os.getpid())
        assert child.pid in living
        assert spent_ns(before, living) >= 0.2 * NS
        foreign = tree(os.getpid(), {child.pid})
        assert foreign[child.pid].foreign
    gone = tree(os.getpid())
    assert child.pid not in gone
    assert spent_ns(before, gone) >= 0.18 * NS


def burn(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass

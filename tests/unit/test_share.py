"""Which part of the host is ours: cgroups, processes that share it, the process tree."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from carbon_otel.meter.share import ProcessShare, ReservedShare, reserved_share, tree_cpu_seconds
from carbon_otel.sensors.processor import BusyTime

HZ = os.sysconf("SC_CLK_TCK")


def cgroup(base: Path, own: str, files: dict[str, str]) -> tuple[Path, Path]:
    """A cgroup file system, and the file that says where in it this process is."""
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
    assert reserved_share(8, *cgroup(tmp_path, own, files)) == share


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


class Members:
    """The measured processes of a host: CPU seconds by process id, none when alone, as `Peers` says them."""

    def __init__(self, *others: int) -> None:
        self.seconds = {os.getpid(): 1.0, **dict.fromkeys(others, 1.0)}

    def cpu_seconds(self):
        return dict(self.seconds) if len(self.seconds) > 1 else {}


@pytest.fixture
def stat(tmp_path):
    return Stat(tmp_path / "stat")


def test_alone_on_what_is_reserved_all_of_it_is_ours(stat):
    rule = ReservedShare(0.25, Members(), BusyTime(stat.path))
    assert rule.share == rule.update() == 0.25


def test_of_several_processes_each_pays_the_active_part_by_cpu_time_and_the_idle_part_equally(stat):
    members = Members(1)
    rule = ReservedShare(1.0, members, BusyTime(stat.path))
    assert rule.share == rule.update() == 0.5
    stat.run(busy=4, idle=6)
    members.seconds[os.getpid()] += 3
    members.seconds[1] += 1
    assert rule.update() == pytest.approx(0.6 / 2 + 0.4 * 3 / 4)
    members.seconds[1] += 5
    stat.run(busy=10, idle=0)
    assert rule.update() == 0
    stat.run(busy=0, idle=10)
    assert rule.update() == 0.5


def test_a_process_that_came_or_went_changes_the_split_at_the_next_tick(stat):
    members = Members()
    rule = ReservedShare(1.0, members, BusyTime(stat.path))
    members.seconds[1] = 70.0
    stat.run(busy=5, idle=5)
    assert rule.update() == 0.5
    del members.seconds[1]
    assert rule.update() == 1.0


def test_without_busy_times_the_share_stays(tmp_path, stat):
    rule = ReservedShare(1.0, Members(1), BusyTime(stat.path))
    stat.path.write_text("gone\n")
    assert rule.update() == 0.5


def test_process_share_lies_where_the_tree_s_cpu_time_puts_it(stat):
    rule = ProcessShare(BusyTime(stat.path))
    before = tree_cpu_seconds()
    assert rule.update() == 0
    after = tree_cpu_seconds()
    burn(0.02)
    stat.run(busy=10, idle=10)
    least = tree_cpu_seconds() - after
    share = rule.update()
    most = tree_cpu_seconds() - before
    # c (2 - u), with c our part of 20 s of capacity and u = 0.5
    assert least / 20 * 1.5 <= share * (1 + 1e-9)
    assert share <= most / 20 * 1.5 * (1 + 1e-9)
    assert least >= 0.01


def test_a_tree_cannot_have_run_longer_than_its_host(stat):
    rule = ProcessShare(BusyTime(stat.path))
    rule.update()
    burn(0.05)
    stat.run(busy=0.01, idle=0.99)
    assert rule.update() == pytest.approx(0.01 * (2 - 0.01))


def test_process_share_stays_while_nothing_is_known(stat):
    rule = ProcessShare(BusyTime(stat.path))
    rule.update()
    stat.run(busy=1, idle=0)
    known = rule.update()
    assert rule.update() == known
    stat.path.write_text("")
    assert rule.update() == known


def burn(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass

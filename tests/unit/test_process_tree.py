"""Process trees from /proc: descendants, orphans, and the number of files read."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from carbon_otel.host.last_id import LastId
from carbon_otel.host.process_tree import LinuxProcesses, Processes, Spent, spent_ns
from tests.fakes.clock import NS
from tests.integration.processes import wait_for

HZ = os.sysconf("SC_CLK_TCK")


class Proc:
    """A /proc written by a test. Its process ids are above those of real processes."""

    FIRST = 5_000_000

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "cpuinfo").touch()

    def write(
        self, pid: int, parent: int, own_s: float = 0.0, reaped_s: float = 0.0, threads: int = 1
    ) -> None:
        folder = self.folder / str(pid)
        folder.mkdir(exist_ok=True)
        times = f"{round(own_s * HZ)} 0 {round(reaped_s * HZ)} 0"
        (folder / "stat").write_text(
            f"{pid} (a) b) S {parent} 1 1 0 -1 0 0 0 0 0 {times} 20 0 {threads} 0 9\n"
        )

    def end(self, pid: int) -> None:
        (self.folder / str(pid) / "stat").unlink()
        (self.folder / str(pid)).rmdir()


@pytest.fixture
def proc(tmp_path):
    return Proc(tmp_path)


A, B, C, D = range(Proc.FIRST, Proc.FIRST + 4)


def test_a_tree_is_a_process_and_its_descendants(proc):
    proc.write(A, 1, own_s=1)
    proc.write(B, A, own_s=2, reaped_s=0.5)
    proc.write(C, B)
    proc.write(D, 1)
    trees = LinuxProcesses(proc.folder).trees([A, D])
    assert trees == {
        A: {A: Spent(NS, 0), B: Spent(2 * NS, NS // 2), C: Spent(0, 0)},
        D: {D: Spent(0, 0)},
    }


def test_descendants_of_a_foreign_process_are_not_in_the_tree(proc):
    proc.write(A, 1)
    proc.write(B, A)
    proc.write(C, B)
    (tree,) = LinuxProcesses(proc.folder).trees([A], {A, B}).values()
    assert tree == {A: Spent(0, 0), B: Spent(0, 0, foreign=True)}


def test_processes_start_and_end(proc):
    proc.write(A, 1)
    processes = LinuxProcesses(proc.folder)
    assert processes.trees([A])[A].keys() == {A}
    proc.write(B, A)
    proc.write(C, B)
    assert processes.trees([A])[A].keys() == {A, B, C}
    proc.end(C)
    assert processes.trees([A])[A].keys() == {A, B}
    proc.end(A)
    assert processes.trees([A]) == {A: {}}


def test_an_orphan_belongs_to_its_new_parent(proc):
    for pid, parent in ((A, 1), (B, A), (C, B), (D, A)):
        proc.write(pid, parent)
    processes = LinuxProcesses(proc.folder)
    assert processes.trees([A])[A].keys() == {A, B, C, D}
    proc.end(B)
    proc.write(C, D)  # D is a subreaper
    assert processes.trees([A, D]) == {
        A: dict.fromkeys((A, C, D), Spent(0, 0)),
        D: dict.fromkeys((C, D), Spent(0, 0)),
    }
    proc.end(D)
    proc.write(C, 1)
    assert processes.trees([A])[A].keys() == {A}


def test_one_file_is_read_for_each_process_of_the_tree_and_each_new_process(proc, monkeypatch):
    """No file is read per thread, and none for other processes of the host."""
    for pid, parent in ((A, 1), (B, A), (C, 1)):
        proc.write(pid, parent, threads=100)
    processes = LinuxProcesses(proc.folder)
    opened = []
    real_open = os.open

    def counting_open(path, flags):
        if Path(path).name == "stat":
            opened.append(int(Path(path).parent.name))
        return real_open(path, flags)

    monkeypatch.setattr(os, "open", counting_open)
    processes.trees([A])
    opened.clear()
    processes.trees([A])
    assert sorted(opened) == [A, B]
    proc.write(D, 1)
    opened.clear()
    processes.trees([A])
    assert sorted(opened) == [A, B, D]


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_nothing_is_listed_or_opened_for_a_lonely_process_until_one_begins(monkeypatch):
    """The ids stand in for those of the other processes of this machine."""
    ids, used = iter([b"7", b"7", b"7", b"8"]), []
    monkeypatch.setattr(LastId, "read", lambda self: next(ids))
    for name in ("listdir", "open"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda path, *rest, real=real: used.append(str(path)) or real(path, *rest)
        )
    with subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE) as lonely:
        processes = LinuxProcesses()
        processes.trees([lonely.pid])
        for listed in (False, False, True):
            used.clear()
            assert processes.trees([lonely.pid])[lonely.pid].keys() == {lonely.pid}
            assert ("/proc" in used) == listed
            assert listed or used == []
        lonely.communicate(b"\n")


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_the_end_of_a_process_is_seen_though_none_has_begun(monkeypatch):
    monkeypatch.setattr(LastId, "read", lambda self: b"7")
    program = [sys.executable, "-S", "-c", "sum(range(10**6)); input()"]
    with subprocess.Popen(program, stdin=subprocess.PIPE) as child:
        processes = LinuxProcesses()
        before = processes.trees([os.getpid()])[os.getpid()]
        assert child.pid in before
        child.communicate(b"\n")
    after = processes.trees([os.getpid()])[os.getpid()]
    assert child.pid not in after
    assert after[os.getpid()].reaped_ns > before[os.getpid()].reaped_ns


class TestLastId:
    @pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
    def test_a_process_and_a_thread_are_seen(self):
        last = LastId(Path("/proc"))
        first = last.read()
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()
        second = last.read()
        subprocess.run([sys.executable, "-S", "-c", ""], check=True)
        third = last.read()
        assert None not in (first, second, third) and first != second != third
        wait_for(lambda: last.read() == last.read())

    @pytest.mark.parametrize("content", [None, "0.00 0.00 0.00 0/0 0\n", ""])
    def test_a_file_that_does_not_count_is_not_believed(self, content, tmp_path):
        if content is not None:
            (tmp_path / "loadavg").write_text(content)
        last = LastId(tmp_path)
        assert [last.read() for _ in range(3)] == [None] * 3


def test_no_file_is_read_for_a_process_that_has_not_run_since(monkeypatch):
    opened = []
    real_open = os.open

    def noting_open(path, *rest):
        opened.append(str(path))
        return real_open(path, *rest)

    monkeypatch.setattr(os, "open", noting_open)
    processes = LinuxProcesses()
    program = (
        "import subprocess, sys\n"
        "for _ in sys.stdin: print(subprocess.call([sys.executable, '-S', '-c', 'sum(range(10**7))']), flush=True)"
    )
    command = [sys.executable, "-S", "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:

        def spent() -> Spent:
            opened.clear()
            return processes.trees([os.getpid()])[os.getpid()][child.pid]

        def waits() -> bool:
            spent()
            return f"/proc/{child.pid}/stat" not in opened

        wait_for(waits)
        before = spent()
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "0\n"
        after = spent()
        assert f"/proc/{child.pid}/stat" in opened
        assert after.own_ns > before.own_ns
        assert after.reaped_ns > before.reaped_ns


def test_a_parent_is_read_after_the_end_of_a_child_even_if_its_clock_stood_still(proc, monkeypatch):
    """Where clocks count in ticks, a process may wait for a child within one."""
    monkeypatch.setattr(time, "clock_gettime_ns", lambda clock: 0)
    proc.write(A, 1)
    proc.write(B, A, own_s=1)
    processes = LinuxProcesses(proc.folder)
    processes.trees([A])
    proc.end(B)
    proc.write(A, 1, reaped_s=1)
    assert processes.trees([A])[A] == {A: Spent(0, NS)}


def test_a_process_that_ends_during_a_walk_is_counted_once(proc, monkeypatch):
    """Its parent, which waits for it, has been read by then."""
    proc.write(A, 1)
    proc.write(B, A)
    proc.write(C, B, own_s=2)
    processes = LinuxProcesses(proc.folder)
    states = [processes.trees([A])[A]]
    real_open = os.open

    def end_first(path, *rest):
        if Path(path).parent.name == str(C):
            monkeypatch.setattr(os, "open", real_open)
            for pid in (C, B):
                proc.end(pid)
            proc.write(A, 1, reaped_s=3)
        return real_open(path, *rest)

    monkeypatch.setattr(os, "open", end_first)
    states += [processes.trees([A])[A] for _ in range(2)]
    assert states[1] == {A: Spent(0, 3 * NS)}
    # The 2 s that C had spent at the first call are no part of the sum.
    assert sum(map(spent_ns, states, states[1:])) == 1 * NS


def test_the_threads_of_all_processes_are_counted_at_each_call(proc, monkeypatch):
    monkeypatch.setattr(time, "clock_gettime_ns", lambda clock: 0)
    proc.write(A, 1, threads=3)
    proc.write(B, A, threads=4)
    processes = LinuxProcesses(proc.folder)
    for _ in range(2):
        processes.trees([A])
        assert processes.threads == 7


def test_without_a_proc_folder_trees_are_empty(tmp_path):
    assert LinuxProcesses(tmp_path / "none").trees([A]) == {A: {}}


@pytest.mark.parametrize("make", [Processes, LinuxProcesses])
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_the_processes_of_this_host(make):
    processes = make()
    program = "import time, sys\nwhile time.process_time() < 0.1: pass\nprint(flush=True)\nsys.stdin.read()"
    before = processes.trees([os.getpid()])[os.getpid()]
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        living = processes.trees([os.getpid()])[os.getpid()]
        assert child.pid in living
        assert spent_ns(before, living) >= 0.09 * NS
    assert child.pid not in processes.trees([os.getpid()])[os.getpid()]

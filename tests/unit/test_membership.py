"""The measured processes of a host: joining, leaving, kills, and their folder."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

import carbon_otel.host.membership
from carbon_otel.host.membership import Membership
from tests.fakes.clock import NS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")

MEMBER = """
import sys
from pathlib import Path
from carbon_otel.host.membership import Membership
peers = Membership("host", Path(sys.argv[1]))
print(peers.name, flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def peers(tmp_path):
    joined = Membership("host", tmp_path)
    yield joined
    joined.leave()


@pytest.fixture
def join(tmp_path):
    """Starts another process that joins; all of them are killed at the end."""
    started = []

    def start():
        program = [sys.executable, "-c", MEMBER, str(tmp_path)]
        started.append(subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        started[-1].name = started[-1].stdout.readline().strip()
        assert started[-1].name
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_killed_process_is_no_member_and_its_file_is_removed(peers, join, tmp_path):
    first, second = join(), join()
    assert peers.alive(first.name) and peers.alive(second.name) and peers.alive(peers.name)
    first.kill()
    first.wait()
    assert not peers.alive(first.name) and peers.alive(second.name)
    assert not list(tmp_path.rglob(first.name))


def test_a_joining_process_removes_the_files_of_killed_ones(join, tmp_path):
    victim = join()
    victim.kill()
    victim.wait()
    peers = Membership("host", tmp_path)
    assert not list(tmp_path.rglob(victim.name))
    peers.leave()


def test_a_process_that_joins_within_one_tick_of_the_file_clock_is_seen(peers, join, tmp_path):
    (folder,) = {own.parent for own in tmp_path.rglob(peers.name)}
    same_tick = 2 * (time.time_ns() + NS,)
    os.utime(folder, ns=same_tick)
    assert not peers.quiet()
    join()
    os.utime(folder, ns=same_tick)
    assert not peers.quiet()
    long_ago = 2 * (time.time_ns() - 10 * NS,)
    os.utime(folder, ns=long_ago)
    assert not peers.quiet()
    assert peers.quiet()


def test_a_stopped_holder_of_the_lock_does_not_stop_the_others(peers, tmp_path):
    with peers.locked() as first:
        assert first
        with peers.locked() as second:
            assert not second
    with peers.locked() as again:
        assert again


def test_releases_with_different_formats_use_different_folders(peers, monkeypatch, tmp_path):
    monkeypatch.setattr(carbon_otel.host.membership, "_FORMAT", carbon_otel.host.membership._FORMAT + 1)
    other = Membership("host", tmp_path)
    assert other.folder is not None and other.folder != peers.folder
    other.leave()


def test_processes_of_containers_with_the_same_ids_are_two_members(peers, monkeypatch, tmp_path):
    """They share the folder; in a container, process ids start at one."""
    elsewhere = peers.process._replace(namespace="another")
    monkeypatch.setattr(carbon_otel.host.membership, "this_process", lambda: elsewhere)
    other = Membership("host", tmp_path)
    assert other.folder == peers.folder and other.process.pid == peers.process.pid
    assert peers.alive(other.name) and other.alive(peers.name)
    # The devices belong to the host, so they are reported once.
    assert peers.holds_device_book() and not other.holds_device_book()
    other.leave()
    assert not peers.alive(other.name)


def test_two_threads_that_ask_for_the_device_book_get_the_same_answer(peers, tmp_path, monkeypatch):
    """The sampler's thread and a flush both tick; the lock is taken once, and released at the end."""
    take = carbon_otel.host.membership._lock
    asked, go, answers = threading.Event(), threading.Event(), []

    def slow(path):
        descriptor = take(path)
        if not asked.is_set():
            asked.set()
            assert go.wait(20)
        return descriptor

    monkeypatch.setattr(carbon_otel.host.membership, "_lock", slow)
    threads = [threading.Thread(target=lambda: answers.append(peers.holds_device_book())) for _ in range(2)]
    threads[0].start()
    assert asked.wait(20)
    threads[1].start()
    threads[1].join(0.2)  # it has an answer by now, unless it waits for the first thread
    go.set()
    for thread in threads:
        thread.join(20)
    assert answers == [True, True] and peers.holds_device_book()
    peers.leave()
    assert not peers.holds_device_book()
    next_one = Membership("host", tmp_path)
    assert next_one.holds_device_book()
    next_one.leave()


def test_a_lock_is_released_while_a_forked_child_has_a_copy_of_it(peers, join, tmp_path):
    """The child has a copy of the descriptor, for as long as it lives."""
    reading, writing = os.pipe()
    with peers.locked() as held:
        assert held and peers.holds_device_book()
        pid = os.fork()
        if pid == 0:
            os.read(reading, 1)
            os._exit(0)
    with peers.locked() as held:
        assert held
    peers.leave()
    other = Membership("host", tmp_path)
    assert other.holds_device_book()
    other.leave()
    os.write(writing, b"x")
    os.waitpid(pid, 0)
    os.close(reading), os.close(writing)


def test_a_process_joins_while_another_one_tests_its_file(tmp_path, monkeypatch):
    """Workers that start at the same time test the files of each other."""
    take, looks = carbon_otel.host.membership._lock, []

    def looked_at(path):
        if path.name.startswith(f"{os.getpid()}.") and not looks:
            looks.append(path)
            return None
        return take(path)

    monkeypatch.setattr(carbon_otel.host.membership, "_lock", looked_at)
    joined = Membership("host", tmp_path)
    assert looks and joined.folder is not None and joined.alive(joined.name)
    joined.leave()


def test_the_next_holder_of_the_device_book_gets_the_last_reported_time(peers, tmp_path):
    assert peers.holds_device_book()
    assert peers.exchange_reported_until(100) == 100 and peers.exchange_reported_until(250) == 100
    peers.leave()
    next_one = Membership("host", tmp_path)
    assert next_one.exchange_reported_until(300) == 300  # it does not hold the book yet
    assert next_one.holds_device_book() and next_one.exchange_reported_until(300) == 250
    next_one.leave()


def test_files_of_a_program_that_has_closed_all_descriptors_are_left_alone(tmp_path):
    member = Membership("host", tmp_path)
    assert member.holds_device_book()
    mine = tmp_path / "mine"
    mine.write_bytes(b"mine")
    descriptors = [member._own, member._book]
    for descriptor in descriptors:
        opened = os.open(mine, os.O_RDWR)
        os.dup2(opened, descriptor)  # as after os.closerange(): the number is that of a file of the program
        os.close(opened)
    try:
        member.exchange_reported_until(7)
        member.meet()
        assert member.holds_device_book()
        assert member._own not in descriptors and member._book not in descriptors
        member.leave()
        assert all(os.fstat(descriptor).st_size == 4 for descriptor in descriptors)
        assert mine.read_bytes() == b"mine"
    finally:
        for descriptor in descriptors:
            os.close(descriptor)

"""Batches on disk: they stay in order, survive a kill at any byte, and stay within bounds."""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import subprocess
import sys
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from carbon_otel import guard
from carbon_otel.mlflow.delivery import spool
from carbon_otel.mlflow.delivery.spool import Batch, LedgerRun, Spool, SpoolInUse

A, B = "http://one:5000", "sqlite:////data/mlflow.db"


def batch(segment=1, step=0, run_id="r", **more):
    return Batch(run_id, segment, {"carbon/energy_wh": 0.1 * step}, {"carbon.zone": "FR"}, step, 1000, **more)


def waiting(box, address=A):
    return [row.batch for row in box.waiting(address)]


@pytest.fixture
def box(tmp_path):
    guard.forget()
    created = Spool.create(tmp_path)
    yield created
    created.close()


class FullDisk:
    """Accepts `free` more bytes, then writes a part and raises an error."""

    def __init__(self, monkeypatch):
        self.free = 0
        self._pwrite = os.pwrite
        monkeypatch.setattr(spool.os, "pwrite", self)

    def __call__(self, descriptor, data, offset):
        accepted = min(self.free, len(data))
        self.free -= accepted
        if not accepted:
            raise OSError(28, "No space left on device")
        return self._pwrite(descriptor, data[:accepted], offset)


def test_a_batch_is_read_back_unchanged(box):
    entry = LedgerRun("e", "inference m", 5, "m-1", "r-1")
    put = [
        batch(
            contribution_id="p",
            hourly="2026-11-24T13=1",
            gauges={"carbon/power/x_w": 7.0},
            final=True,
            resumed=True,
            efficiency_metric="accuracy",
        ),
        batch(entry=entry),
    ]
    for each in put:
        box.put(A, each)
    assert waiting(box) == put
    assert [each.ordering_key for each in put] == ["r", "e"]


def test_a_batch_may_hold_read_only_mappings(box):
    frozen = Batch("r", 1, MappingProxyType({"a": 1.0}), MappingProxyType({"b": "c"}), 0, 0)
    box.put(A, frozen)
    assert waiting(box) == [Batch("r", 1, {"a": 1.0}, {"b": "c"}, 0, 0)]


def test_stores_are_separate_and_runs_can_be_excluded(box):
    box.put(A, batch(run_id="r"))
    box.put(B, batch(run_id="s", segment=2))
    box.put(A, batch(run_id="t", segment=3))
    assert box.addresses() == {A: 2, B: 1}
    assert all(map(box.is_waiting, (1, 2, 3, None))) and not box.is_waiting(4)
    assert [b.run_id for b in waiting(box)] == ["r", "t"]
    assert [row.batch.run_id for row in box.waiting(A, excluded={"r"})] == ["t"]
    box.done([row.number for row in box.waiting(A)])
    assert box.addresses() == {B: 1} and not box.is_waiting(1)


def test_batches_of_an_ended_process_are_found_and_an_empty_file_is_removed(tmp_path):
    left, emptied = Spool.create(tmp_path), Spool.create(tmp_path)
    left.put(A, batch())
    left.put(A, batch(step=1))
    left.done([1])
    assert not left.close() and emptied.close()
    (found,) = Spool.left_in(tmp_path)
    assert waiting(found) == [batch(step=1)]
    found.put(A, batch(step=2))
    assert [row.number for row in found.waiting(A)] == [2, 3]
    found.done([2, 3])
    assert found.close()
    assert list(tmp_path.iterdir()) == []


def test_the_file_of_a_living_process_is_in_use_and_that_of_a_killed_process_is_found(tmp_path):
    program = (
        "import sys, pathlib; sys.path.insert(0, '.'); from tests.unit.test_spool import *\n"
        "box = Spool.create(pathlib.Path(sys.argv[1])); box.put(A, batch()); print('put', flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"put\n"
    (path,) = tmp_path.glob("*.spool")
    with pytest.raises(SpoolInUse):
        Spool.open(path)
    assert list(Spool.left_in(tmp_path)) == []
    process.kill()
    process.communicate()
    (found,) = Spool.left_in(tmp_path)
    assert found.addresses() == {A: 1}
    found.close()


def test_a_kill_at_any_byte_costs_at_most_the_line_that_was_being_written(tmp_path):
    """The file is cut at every length; the remaining lines are read, and writing can continue."""
    box = Spool.create(tmp_path)
    box.put(A, batch(segment=9))  # prevents the emptying of the file
    ends, states = [box.path.stat().st_size], [[9]]
    for action in (
        lambda: box.put(A, batch(step=1)),
        lambda: box.done([1]),
        lambda: box.put(B, batch(step=3)),
    ):
        action()
        ends.append(box.path.stat().st_size)
        states.append([row.batch.segment for address in (A, B) for row in box.waiting(address)])
    data = box.path.read_bytes()
    path = box.path
    box.close()
    for size in range(len(data) + 1):
        path.write_bytes(data[:size])
        survivor = Spool.open(path)
        complete = [state for end, state in zip(ends, states, strict=True) if end <= size]
        segments = [row.batch.segment for address in (A, B) for row in survivor.waiting(address)]
        assert segments == (complete[-1] if complete else [])
        assert survivor.unreadable == 0
        survivor.put(A, batch(segment=7))
        survivor.close()
        again = Spool.open(path)
        assert again.waiting(A)[-1].batch.segment == 7
        again.close()


def test_an_unreadable_line_stays_and_hides_no_other(tmp_path, caplog):
    guard.forget()
    (tmp_path / "0-broken.spool").write_bytes(b"this is no JSON\n" * 500)
    (tmp_path / "0-broken.spool").chmod(0o600)
    box = Spool.create(tmp_path)
    box.put(A, batch())
    path = box.path
    box.close()
    with path.open("ab") as file:
        file.write(b'{"id": 2, "address": "x", "batch": {"of a later version": 1}}\n')
    (found,) = Spool.left_in(tmp_path)
    assert waiting(found) == [batch()] and found.unreadable == 1
    found.done([1])
    found.close()
    assert "0-broken.spool cannot be read" in caplog.text and (tmp_path / "0-broken.spool").exists()
    assert "later version" in path.read_text()


def test_a_file_that_another_process_checks_while_it_is_created_is_replaced(tmp_path, monkeypatch):
    """Between the creation of the file and its lock, another process searches for files of ended processes."""
    flock = fcntl.flock

    def check_first(descriptor, operation):
        monkeypatch.setattr(fcntl, "flock", flock)
        assert list(Spool.left_in(tmp_path)) == []
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", check_first)
    box = Spool.create(tmp_path)
    box.put(A, batch())
    assert box.path is not None and box.path.exists()
    box.close()
    assert len(list(tmp_path.iterdir())) == 1


def test_a_forked_child_does_not_change_the_file_of_its_parent(tmp_path):
    box = Spool.create(tmp_path)
    box.put(A, batch())
    before = box.path.read_bytes()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            assert list(Spool.left_in(tmp_path)) == []
            box.put(A, batch(step=9))
            box.done([1, 2])
            box.close()
            own = Spool.create(tmp_path)
            own.put(A, batch(segment=2))
            code = int(own.close())
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert box.path.read_bytes() == before
    box.put(A, batch(step=1))
    assert len(box.waiting(A)) == 2
    box.done([1, 2])
    assert box.close()


def test_a_forked_child_does_not_keep_the_lock_of_a_parent_that_died(tmp_path):
    """The child of a killed worker may live for days."""
    program = (
        "import os, sys, pathlib, time; sys.path.insert(0, '.'); from tests.unit.test_spool import *\n"
        "box = Spool.create(pathlib.Path(sys.argv[1])); box.put(A, batch())\n"
        "child = os.fork()\n"
        "if child == 0: print(os.getpid(), flush=True); time.sleep(600)\n"
        "input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    child = int(process.stdout.readline())
    try:
        process.kill()
        process.wait()
        (found,) = Spool.left_in(tmp_path)
        found.close()
    finally:
        os.kill(child, 9)
        process.communicate()


def test_only_the_user_can_read_the_file(tmp_path):
    box = Spool.create(tmp_path / "state" / "mlflow")
    assert box.path.stat().st_mode & 0o077 == 0 and box.path.parent.stat().st_mode & 0o077 == 0
    box.close()


def test_links_and_files_that_others_can_write_are_not_read(tmp_path, caplog):
    guard.forget()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"{}\n")
    (tmp_path / "a.spool").symlink_to(elsewhere)
    (tmp_path / "b.spool").write_bytes(b"{}\n")
    (tmp_path / "b.spool").chmod(0o666)
    os.mkfifo(tmp_path / "c.spool", 0o600)
    assert list(Spool.left_in(tmp_path)) == []
    assert caplog.text.count("cannot be read") == 3
    assert elsewhere.read_bytes() == b"{}\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to own files as another user")
def test_files_of_another_user_in_a_shared_folder_are_neither_read_nor_mentioned(tmp_path, caplog):
    guard.forget()
    own, other = Spool.create(tmp_path), Spool.create(tmp_path)
    for box in (own, other):
        box.put(A, batch())
        box.close()
    os.chown(other.path, 65534, 65534)
    former_outbox(tmp_path / "1-a.outbox", [json.dumps(FORMER_BODY)]).close()
    os.chown(tmp_path / "1-a.outbox", 65534, 65534)
    (left,) = Spool.left_in(tmp_path)
    assert left.path == own.path
    left.close()
    assert other.path.exists() and (tmp_path / "1-a.outbox").exists()
    assert not caplog.records


def test_an_outbox_that_others_could_replace_is_not_opened(tmp_path, caplog):
    guard.forget()
    former_outbox(tmp_path / "1-a.outbox", [json.dumps(FORMER_BODY)]).close()
    tmp_path.chmod(0o777)
    assert list(Spool.left_in(tmp_path)) == []
    tmp_path.chmod(0o700)
    former_outbox(tmp_path / "elsewhere", [json.dumps(FORMER_BODY)]).close()
    (tmp_path / "1-a.outbox").unlink()
    (tmp_path / "1-a.outbox").symlink_to(tmp_path / "elsewhere")
    assert list(Spool.left_in(tmp_path)) == []
    assert caplog.text.count("1-a.outbox cannot be read") == 1  # once for each file
    assert (tmp_path / "elsewhere").exists()


def test_batches_are_in_memory_if_the_folder_cannot_be_written(tmp_path, caplog):
    guard.forget()
    (tmp_path / "file").write_text("")
    box = Spool.create(tmp_path / "file" / "below")
    assert not box.put(A, batch())
    assert box.path is None and len(box.waiting(A)) == 1
    assert "set state_dir" in caplog.text


@pytest.mark.parametrize("free", [0, 1, 50])
def test_while_the_disk_is_full_batches_are_in_memory_and_in_order(box, monkeypatch, caplog, free):
    box.put(A, batch())
    disk = FullDisk(monkeypatch)
    for step in range(1, 20):
        disk.free = free
        assert not box.put(A, batch(step=step))
    disk.free = 1 << 20
    assert box.put(A, batch(step=20, final=True))
    assert caplog.text.count("cannot be written any more") == 1
    rows = box.waiting(A)
    assert [row.batch.step for row in rows] == list(range(21))
    box.done([row.number for row in rows[:-1]])
    assert [b.step for b in waiting(box)] == [20]
    path = box.path
    box.close()
    left = Spool.open(path)
    assert [b.step for b in waiting(left)] == [20] and left.unreadable == 0
    left.close()


def test_batches_whose_end_cannot_be_recorded_are_not_sent_again_and_again(box, monkeypatch):
    box.put(A, batch())
    box.put(A, batch(segment=2))
    FullDisk(monkeypatch)
    box.done([1])
    assert [b.segment for b in waiting(box)] == [2]


def test_the_file_does_not_grow_without_bound_while_a_server_is_down(box, monkeypatch):
    monkeypatch.setattr(spool, "LIMIT", 20)
    monkeypatch.setattr(spool, "_SLACK_BYTES", 2000)
    box._compact_above = 2000
    for step in range(2000):
        box.put(A, batch(step=step))
    assert box.path.stat().st_size < 20_000
    with pytest.raises(SpoolInUse):
        Spool.open(box.path)
    steps = [b.step for b in waiting(box)]
    assert steps == sorted(steps) and steps[-1] == 1999
    path = box.path
    box.close()
    left = Spool.open(path)
    assert [b.step for b in waiting(left)] == steps
    left.close()
    assert list(path.parent.iterdir()) == [path]


def test_a_half_written_copy_of_a_killed_process_is_removed(tmp_path):
    half = tmp_path / "1-a.spool.compacted"
    half.write_bytes(b'{"id":')
    half.chmod(0o600)
    assert list(Spool.left_in(tmp_path)) == []
    assert not half.exists()


@given(st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=80))
def test_beyond_the_limit_the_last_states_stay_and_curves_get_coarser(puts):
    limit, spool.LIMIT = spool.LIMIT, 12
    try:
        box = Spool()
        newest = {}
        for step, (segment, _) in enumerate(puts):
            newest[segment] = step
            box.put(A, batch(segment=segment, step=step))
            rows = waiting(box)
            assert len(rows) <= 12
            assert {b.segment: b.step for b in rows} == newest
            assert [b.step for b in rows] == sorted(b.step for b in rows)
    finally:
        spool.LIMIT = limit


def test_the_oldest_batch_is_dropped_with_a_warning_if_each_is_the_only_state_of_its_run(monkeypatch, caplog):
    guard.forget()
    monkeypatch.setattr(spool, "LIMIT", 3)
    box = Spool()
    for segment in range(5):
        box.put(A, batch(segment=segment))
    assert [b.segment for b in waiting(box)] == [2, 3, 4]
    assert "the oldest figures are lost" in caplog.text


class AgainstAModel(RuleBasedStateMachine):
    """Puts, ends, full disks, kills and compaction, compared with a list of pairs."""

    numbers = Bundle("numbers")

    def __init__(self):
        super().__init__()
        import tempfile
        from pathlib import Path

        self.folder = tempfile.TemporaryDirectory()
        self.monkeypatch = pytest.MonkeyPatch()
        self.monkeypatch.setattr(spool, "_SLACK_BYTES", 1500)
        self.box = Spool.create(Path(self.folder.name))
        self.box._compact_above = 1500
        self.model = {}
        self.volatile = set()

    def teardown(self):
        self.box.close()
        self.monkeypatch.undo()
        self.folder.cleanup()

    @rule(segment=st.integers(1, 3), address=st.sampled_from([A, B]), full=st.booleans())
    def put(self, segment, address, full):
        number = self.box._next
        with pytest.MonkeyPatch.context() as patch:
            if full:
                FullDisk(patch).free = 20
            on_disk = self.box.put(address, batch(segment=segment, step=number))
        assert on_disk is not full
        self.model[number] = (address, segment)
        if full:
            self.volatile.add(number)

    @rule(data=st.data())
    def done(self, data):
        if self.model:
            numbers = data.draw(st.lists(st.sampled_from(sorted(self.model)), max_size=4, unique=True))
            self.box.done(numbers)
            for number in numbers:
                del self.model[number]

    @rule()
    def kill(self):
        """End without `close`; batches in memory are lost, unless a compaction has written them."""
        volatile = {n for n, row in self.box._rows.items() if row.line is not None}
        assert volatile <= self.volatile
        self.box._renew()
        (self.box,) = [*Spool.left_in(self.box.path.parent)] or [Spool.create(self.box.path.parent)]
        self.box._compact_above = 1500
        self.model = {n: pair for n, pair in self.model.items() if n not in volatile}
        self.volatile.clear()

    @invariant()
    def agrees(self):
        rows = {
            row.number: (address, row.batch.segment)
            for address in (A, B)
            for row in self.box.waiting(address)
        }
        assert rows == self.model
        assert all(
            self.box.waiting(a)[0].number == min(n for n in rows if rows[n][0] == a)
            for a in self.box.addresses()
        )
        for segment in (1, 2, 3):
            assert self.box.is_waiting(segment) == any(s == segment for _, s in self.model.values())


AgainstAModel.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestAgainstAModel = AgainstAModel.TestCase


# The table of version 0.1.
FORMER_SCHEMA = (
    "create table batch (id integer primary key, address text, run text, segment integer, body text)"
)


def former_outbox(path, bodies):
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("pragma locking_mode = exclusive")
    database.execute("pragma journal_mode = wal")
    database.execute(FORMER_SCHEMA)
    for body in bodies:
        database.execute("insert into batch (address, run, segment, body) values (?, 'r', 1, ?)", (A, body))
    return database


FORMER_BODY = {
    "run_id": "r",
    "segment": 1,
    "values": {"carbon/energy_wh": 1.5},
    "tags": {"carbon.zone": "FR"},
    "step": 3,
    "timestamp_ms": 1000,
    "part": "p",
    "gauges": {},
    "hourly": "",
    "resumed": False,
    "final": True,
    "entry": None,
    "per_gram": "accuracy",
}


def test_a_file_of_the_former_version_is_sent_and_removed(tmp_path):
    former_outbox(tmp_path / "1-a.outbox", [json.dumps(FORMER_BODY)]).close()
    (found,) = Spool.left_in(tmp_path)
    (former,) = waiting(found)
    assert (former.contribution_id, former.efficiency_metric, former.step) == ("p", "accuracy", 3)
    found.done([1])
    found.close()
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_the_former_version_of_a_killed_process_is_sent(tmp_path):
    """Its last rows are in the log beside the file."""
    program = (
        "import sys, pathlib; sys.path.insert(0, '.'); from tests.unit.test_spool import *\n"
        "database = former_outbox(sys.argv[1], [json.dumps(FORMER_BODY)]); print('put', flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "1-a.outbox")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"put\n"
    assert list(Spool.left_in(tmp_path)) == []  # its process is alive
    process.kill()
    process.communicate()
    (found,) = Spool.left_in(tmp_path)
    assert len(waiting(found)) == 1
    assert not list(tmp_path.glob("*.outbox*"))
    found.close()


def test_a_file_of_the_former_version_stays_if_the_disk_is_full(tmp_path, monkeypatch):
    former_outbox(tmp_path / "1-a.outbox", [json.dumps(FORMER_BODY)]).close()
    FullDisk(monkeypatch)
    assert list(Spool.left_in(tmp_path)) == []
    assert [path.name for path in tmp_path.iterdir()] == ["1-a.outbox"]


def test_an_unreadable_file_of_the_former_version_stays(tmp_path, caplog):
    guard.forget()
    (tmp_path / "0-broken.outbox").write_bytes(b"this is no database" * 500)
    former_outbox(tmp_path / "1-a.outbox", [json.dumps(FORMER_BODY)]).close()
    (found,) = Spool.left_in(tmp_path)
    found.close()
    assert "0-broken.outbox cannot be read" in caplog.text and (tmp_path / "0-broken.outbox").exists()

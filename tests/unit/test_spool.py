"""What waits on disk: in order, once, out of the way of living processes, and within bounds."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_otel import guard
from carbon_otel.mlflow.delivery import spool
from carbon_otel.mlflow.delivery.spool import Batch, LedgerRun, Spool, SpoolInUse

A, B = "http://one:5000", "sqlite:////data/mlflow.db"


def batch(segment=1, step=0, run_id="r", **more):
    return Batch(run_id, segment, {"carbon/energy_wh": 0.1 * step}, {"carbon.zone": "FR"}, step, 1000, **more)


@pytest.fixture
def box(tmp_path):
    made = Spool.create(tmp_path)
    yield made
    made.close()


def test_a_batch_comes_back_as_it_was(box):
    entry = LedgerRun("e", "inference m", 5, "m-1", "r-1")
    put = [
        batch(
            part="p",
            hourly="2026-11-24T13=1",
            gauges={"carbon/power/x_w": 7.0},
            final=True,
            resumed=True,
            per_gram="accuracy",
        ),
        batch(entry=entry),
    ]
    for each in put:
        box.put(A, each)
    assert [row.batch for row in box.waiting(A)] == put
    assert [each.of for each in put] == ["r", "e"]


def test_for_each_store_apart_and_without_some_runs(box):
    box.put(A, batch(run_id="r"))
    box.put(B, batch(run_id="s", segment=2))
    box.put(A, batch(run_id="t", segment=3))
    assert box.addresses() == {A: 2, B: 1} and box.segments() == {1, 2, 3}
    assert [row.batch.run_id for row in box.waiting(A)] == ["r", "t"]
    assert [row.batch.run_id for row in box.waiting(A, but={"r"})] == ["t"]
    box.done([row.number for row in box.waiting(A)])
    assert box.addresses() == {B: 1}


def test_what_is_left_is_found_and_an_empty_file_goes(tmp_path):
    left, emptied = Spool.create(tmp_path), Spool.create(tmp_path)
    left.put(A, batch())
    assert not left.close() and emptied.close()
    (found,) = Spool.left_in(tmp_path)
    assert found.waiting(A)[0].batch == batch()
    found.done([1])
    assert found.close()
    assert list(tmp_path.iterdir()) == []


def test_that_of_a_living_process_is_in_use_and_of_a_killed_one_is_left(tmp_path):
    program = (
        "import sys, pathlib; sys.path.insert(0, '.'); from tests.unit.test_spool import *\n"
        "box = Spool.create(pathlib.Path(sys.argv[1])); box.put(A, batch()); print('put', flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"put\n"
    (path,) = tmp_path.glob("*.outbox")
    with pytest.raises(SpoolInUse):
        Spool(path)
    assert list(Spool.left_in(tmp_path)) == []
    process.kill()
    process.communicate()
    (found,) = Spool.left_in(tmp_path)
    assert found.addresses() == {A: 1}
    found.close()


def test_one_that_cannot_be_read_does_not_hide_the_others(tmp_path, caplog):
    guard.forget()
    (tmp_path / "0-broken.outbox").write_bytes(b"this is no database" * 500)
    box = Spool.create(tmp_path)
    box.put(A, batch())
    box.close()
    (found,) = Spool.left_in(tmp_path)
    assert found.addresses() == {A: 1}
    found.close()
    assert "0-broken.outbox cannot be read" in caplog.text and (tmp_path / "0-broken.outbox").exists()


def test_one_that_is_being_made_is_left_to_its_maker(tmp_path, monkeypatch):
    """Between the file's making and its locking, another process looks for what was left."""
    connect = spool.sqlite3.connect

    def look_first(*args, **kwargs):
        monkeypatch.setattr(spool.sqlite3, "connect", connect)
        assert list(Spool.left_in(tmp_path)) == []
        return connect(*args, **kwargs)

    monkeypatch.setattr(spool.sqlite3, "connect", look_first)
    box = Spool.create(tmp_path)
    box.put(A, batch())
    assert box.path is not None and box.path.exists()
    box.close()


def test_a_forked_child_leaves_its_parents_alone(tmp_path):
    box = Spool.create(tmp_path)
    box.put(A, batch())
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            assert list(Spool.left_in(tmp_path)) == []
            del box
            own = Spool.create(tmp_path)
            own.put(A, batch(segment=2))
            code = int(own.close())
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    box.put(A, batch(step=1))
    assert len(box.waiting(A)) == 2
    box.done([1, 2])
    assert box.close()


def test_only_its_user_can_read_it(tmp_path):
    box = Spool.create(tmp_path / "state" / "mlflow")
    assert box.path.stat().st_mode & 0o077 == 0 and box.path.parent.stat().st_mode & 0o077 == 0
    box.close()


def test_in_memory_where_nothing_can_be_written(tmp_path, caplog):
    guard.forget()
    (tmp_path / "file").write_text("")
    box = Spool.create(tmp_path / "file" / "below")
    box.put(A, batch())
    assert box.path is None and len(box.waiting(A)) == 1
    assert "set state_dir" in caplog.text


def test_while_the_disk_is_full_the_rest_is_in_memory_and_in_order(box, caplog):
    guard.forget()
    box.put(A, batch())
    (pages,) = box._db.execute("pragma page_count").fetchone()
    box._db.execute(f"pragma max_page_count = {pages}")
    for step in range(1, 200):
        box.put(A, batch(step=step))
    box._db.execute("pragma max_page_count = 10000")
    box.put(A, batch(step=200, final=True))
    assert "cannot be written any more" in caplog.text
    rows = box.waiting(A)
    assert [row.batch.step for row in rows] == list(range(201))
    assert box.addresses() == {A: 201} and box.segments() == {1}
    box.done([row.number for row in rows[:-1]])
    assert [row.batch.step for row in box.waiting(A)] == [200]
    box.done([rows[-1].number])
    box.put(A, batch(segment=2))
    (kept,) = box._db.execute("select count(*) from batch").fetchone()
    assert kept == 1  # on disk again
    box.done([row.number for row in box.waiting(A)])


def test_what_cannot_be_taken_off_the_disk_is_not_sent_for_ever(box):
    box.put(A, batch())
    box._db.execute(
        "create temp trigger full before delete on main.batch begin select raise(fail, 'full'); end"
    )
    box.done([row.number for row in box.waiting(A)])
    assert box.waiting(A) == [] and box.addresses() == {}
    box._db.execute("drop trigger full")


@given(st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=80))
def test_when_it_is_full_totals_stay_and_curves_get_coarser(puts):
    """Whatever is put: within the limit, and each segment's newest state is there."""
    limit, spool.LIMIT = spool.LIMIT, 12
    try:
        box = Spool(None)
        newest = {}
        for step, (segment, _) in enumerate(puts):
            newest[segment] = step
            box.put(A, batch(segment=segment, step=step))
            rows = [row.batch for row in box.waiting(A)]
            assert len(rows) <= 12
            assert {b.segment: b.step for b in rows} == newest
            assert [b.step for b in rows] == sorted(b.step for b in rows)
    finally:
        spool.LIMIT = limit


def test_when_each_is_the_only_state_of_a_run_the_oldest_goes_and_it_says_so(monkeypatch, caplog):
    guard.forget()
    monkeypatch.setattr(spool, "LIMIT", 3)
    box = Spool(None)
    for segment in range(5):
        box.put(A, batch(segment=segment))
    assert box.segments() == {2, 3, 4}
    assert "the oldest figures are lost" in caplog.text

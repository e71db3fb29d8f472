"""The part of a process in a run that another process has opened: on disk, then in the run."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace

import pytest

from carbon_otel import guard
from carbon_otel.mlflow.delivery import spool, worker
from carbon_otel.mlflow.delivery.joined_file import PREFIX, JoinedFiles
from carbon_otel.mlflow.delivery.segment import Segment
from carbon_otel.mlflow.delivery.spool import Spool
from carbon_otel.mlflow.schema import contributions, names
from tests.integration.processes import wait_for
from tests.unit.test_delivery_worker import Controlled, Store, batch
from tests.unit.test_segment import BEGIN_S, figures

pytest.importorskip("mlflow")

ADDRESS = Store.db_uri


def part(energy_wh: float, *, final: bool = True, run_id: str = "r", writer: str = "child"):
    return replace(batch(7, energy_wh, run_id, final=final), contribution_id=writer, tags={}, joined=True)


@pytest.fixture
def files(tmp_path):
    guard.forget()
    return JoinedFiles(tmp_path)


def left(folder) -> list[float]:
    """The sums that wait in the folder."""
    found = []
    for each in Spool.left_in(folder, PREFIX):
        found += [waiting.batch.values["carbon/energy_wh"] for waiting in each.waiting(ADDRESS)]
        each.close()
    return sorted(found)


def test_only_the_last_state_of_each_run_waits(files, tmp_path):
    for energy_wh in (1.0, 2.0, 3.0):
        files.put(ADDRESS, part(energy_wh))
    files.put(ADDRESS, part(9.0, run_id="other"))
    assert left(tmp_path) == [3.0, 9.0]
    assert all(file.stat().st_mode & 0o077 == 0 for file in tmp_path.iterdir())


def test_a_state_that_is_being_sent_stays_and_the_next_one_comes_after_it(files, tmp_path):
    files.put(ADDRESS, part(1.0))
    (sending,) = Spool.left_in(tmp_path, PREFIX)
    files.put(ADDRESS, part(2.0))
    assert left(tmp_path) == [2.0]
    sending.close()
    names = sorted(file.name for file in tmp_path.iterdir())
    assert len(names) == 2 and names[0].endswith("-00000000.spool")


def test_a_file_that_another_process_takes_while_it_is_written_is_written_again(files, tmp_path, monkeypatch):
    original, taken = spool.lock, []

    def take_the_first(path, flags=0):
        if not taken:
            taken.append(path)
            raise spool.SpoolInUse(str(path))
        return original(path, flags)

    monkeypatch.setattr(spool, "lock", take_the_first)
    files.put(ADDRESS, part(1.0))
    assert left(tmp_path) == [1.0]


def test_a_folder_that_cannot_be_written_is_named_once(files, tmp_path, caplog):
    tmp_path.rmdir()
    tmp_path.write_text("a file")
    with caplog.at_level(logging.WARNING, "carbon_otel"):
        files.put(ADDRESS, part(1.0))
        files.put(ADDRESS, part(2.0))
    assert len(caplog.records) == 1 and "set state_dir" in caplog.text


@pytest.mark.parametrize("comes", ["before the end", "after the end"])
def test_a_run_has_its_own_sum_and_the_parts(files, tmp_path, comes):
    store, opener = Store(), Controlled(tmp_path)
    opener.put(batch(1, 1.0, final=False), store)
    assert opener.wait(20)
    if comes == "before the end":
        files.put(ADDRESS, part(0.5))
    opener.put(batch(1, 2.0, step=1), store)
    assert opener.wait(20)
    if comes == "after the end":
        assert store.values("r")[-1] == 2.0
        files.put(ADDRESS, part(0.5))
        assert opener.flush(20)
    opener.close(20)
    assert store.values("r")[-1] == 2.5
    assert (store.tags["r"]["carbon.status"], len(contributions.read(store.tags["r"]))) == ("final", 2)
    assert left(tmp_path) == []


@pytest.mark.parametrize("sender", ["the process of the run", "another process"])
def test_a_part_of_a_killed_process_that_comes_after_the_end_is_added_up(files, tmp_path, sender):
    store, opener = Store(), Controlled(tmp_path)
    opener.put(batch(1, 2.0), store)
    assert opener.wait(20)
    assert store.tags["r"]["carbon.status"] == "final"
    files.put(ADDRESS, part(0.5, final=False))
    if sender == "another process":
        opener.close(20)
        opener = Controlled(tmp_path)
        opener.put(batch(2, 1.0, run_id="other"), store)
    assert opener.flush(20)
    opener.close(20)
    assert store.values("r")[-1] == 2.5
    assert (store.tags["r"]["carbon.status"], len(contributions.read(store.tags["r"]))) == ("running", 2)
    assert left(tmp_path) == []


def test_a_part_of_a_run_that_is_open_here_costs_one_call_of_the_store(files, tmp_path):
    """The last batch of the run adds the parts up."""
    store, opener = Store(), Controlled(tmp_path)
    opener.put(batch(1, 1.0, final=False), store)
    assert opener.wait(20)
    calls, asked = store.calls, []
    store.get_run = asked.append
    for energy_wh in (0.5, 1.0):
        files.put(ADDRESS, part(energy_wh, final=False))
        assert opener.flush(20)
    assert (store.calls - calls, asked) == (2, [])
    opener.close(20)


def test_a_part_never_makes_an_open_run_final(files, tmp_path):
    store, opener = Store(), Controlled(tmp_path)
    opener.put(replace(batch(1, 0.0, final=False), values={}), store)
    assert opener.wait(20)
    files.put(ADDRESS, part(0.5))
    assert opener.flush(20)
    assert store.tags["r"]["carbon.status"] == "running"
    assert sorted(each.final for each in contributions.read(store.tags["r"]).values()) == [False, True]
    opener.close(20)


def test_a_part_that_was_killed_makes_the_run_a_lower_bound_even_without_energy(files, tmp_path):
    store, opener = Store(), Controlled(tmp_path)
    files.put(ADDRESS, replace(part(0.0, final=False), values={}))
    opener.put(batch(1, 2.0, final=False), store)
    assert opener.wait(20)
    opener.put(batch(1, 2.0, step=1), store)
    assert opener.wait(20)
    opener.close(20)
    assert (store.tags["r"]["carbon.status"], len(contributions.read(store.tags["r"]))) == ("running", 2)


def test_several_tasks_are_one_part():
    segment = Segment(1, BEGIN_S, run_id="r", contribution_id="child", joined=True)
    first = segment.state(figures(100.0, 2.0), {}, 2.0, final=True)
    segment.reopen(10.0)
    between = segment.unchanged()
    second = segment.state(figures(50.0, 1.0), {}, 1.0, final=True)
    assert first.final and not between.final and second.final
    assert between.values == first.values
    assert second.values["carbon/energy_wh"] * 3600 == pytest.approx(150.0)
    assert second.values["carbon/training/energy_wh"] * 3600 == pytest.approx(150.0)
    assert second.values["carbon/duration_s"] == pytest.approx(3.0)
    assert set(second.gauges.values()) == {50.0}


def test_the_end_of_a_rank_waits_for_the_last_part_of_another_one(files, tmp_path, monkeypatch):
    monkeypatch.setattr(worker.group, "works_together", True)
    monkeypatch.setattr(worker, "_RANKS_S", 60.0)
    store, rank_0 = Store(), Controlled(tmp_path)
    rank_0.put(batch(1, 2.0), store)
    assert rank_0.wait(20)
    files.put(ADDRESS, replace(part(0.5, final=False), rank={"rank": 1.0, "world_size": 2.0}))
    closing = threading.Thread(target=rank_0.close, args=(120,))
    closing.start()
    try:
        wait_for(
            lambda: [each.final for each in contributions.read(store.tags["r"]).values()] == [True, False]
        )
    finally:
        files.put(ADDRESS, replace(part(0.7), rank={"rank": 1.0, "world_size": 2.0}))
        closing.join()
    assert store.values("r")[-1] == 2.7 and store.tags["r"]["carbon.status"] == "final"
    assert store.tags["r"]["carbon.ranks"] == "1 of 2 ranks, 0.700 Wh to 0.700 Wh each"
    assert left(tmp_path) == []


def test_a_part_names_its_process(files, tmp_path):
    """Else a run whose processes have all been killed would never be found."""
    store, opener = Store(), Controlled(tmp_path)
    files.put(ADDRESS, replace(part(0.5, final=False), tags={names.PROCESS: "a process"}))
    opener.put(batch(1, 2.0, final=False), store)
    assert opener.wait(20)
    assert contributions.read(store.tags["r"])["child"].process == "a process"
    assert store.tags["r"].get(names.PROCESS) != "a process"
    opener.close(20)


def test_a_part_of_a_killed_process_that_comes_after_the_end_makes_the_run_a_lower_bound(files, tmp_path):
    store, opener = Store(), Controlled(tmp_path)
    opener.put(batch(1, 2.0), store)
    assert opener.wait(20)
    files.put(ADDRESS, part(0.5, final=False))
    assert opener.flush(20)
    opener.close(20)
    assert (store.tags["r"]["carbon.status"], len(contributions.read(store.tags["r"]))) == ("running", 2)
    assert store.values("r")[-1] == 2.5

"""The rank of a process, by its environment and by its process group, and what the ranks of a job share."""

from __future__ import annotations

import os

import pytest

import carbon_otel
from carbon_otel import ranks
from carbon_otel.ranks import Group, Rank, rank_in
from carbon_otel.semconv import names as semconv
from tests.fakes.powercap import server
from tests.unit.test_otel_sink import Application

TORCHRUN = {
    "RANK": "3",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_WORLD_SIZE": "2",
    "TORCHELASTIC_RUN_ID": "job",
    "TORCHELASTIC_RESTART_COUNT": "0",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "29400",
}


def test_the_rank_that_torchrun_gives():
    assert rank_in(TORCHRUN) == Rank(3, 4, 1)


@pytest.mark.parametrize(
    "changed",
    [
        {"WORLD_SIZE": "1", "RANK": "0"},
        {"RANK": ""},
        {"RANK": "4"},
        {"RANK": "-1"},
        {"WORLD_SIZE": "many"},
        {"RANK": "\u0663"},
    ],
)
def test_no_rank_of_several(changed):
    assert rank_in({**TORCHRUN, **changed}) is None
    assert rank_in({}) is None


def trace_id(**changed):
    return ranks._trace_id({**TORCHRUN, **changed})


def test_the_ranks_of_a_job_have_one_trace_and_another_job_has_another():
    own = trace_id()
    assert own == trace_id(RANK="0", LOCAL_RANK="0") != 0
    others = {"TORCHELASTIC_RESTART_COUNT": "1"}, {"TORCHELASTIC_RUN_ID": "other"}, {"MASTER_PORT": "29401"}
    assert len({own, *(trace_id(**other) for other in others)}) == 4


def test_a_job_without_a_name_is_told_by_what_starts_its_ranks(monkeypatch):
    unnamed = {"TORCHELASTIC_RUN_ID": "none", "LOCAL_WORLD_SIZE": "4"}
    own = trace_id(**unnamed)
    assert own == trace_id(**unnamed, RANK="0")
    monkeypatch.setattr(os, "getppid", os.getpid)
    assert own != trace_id(**unnamed)
    # The ranks of several hosts have no process in common.
    assert trace_id(TORCHELASTIC_RUN_ID="none") is None
    assert trace_id(TORCHELASTIC_RUN_ID="") is None


@pytest.mark.parametrize(("rank", "counted"), [(0, {"steps": 5.0, "samples": 40.0}), (1, {"samples": 40.0})])
def test_what_all_ranks_do_together_is_counted_by_rank_0(monkeypatch, tmp_path, rank, counted):
    group = Group()
    group.made(Rank(rank, 2), None)
    monkeypatch.setattr(ranks.group, "rank", group.rank)
    monkeypatch.setattr(ranks.group, "works_together", True)
    application = Application(server(tmp_path))
    application.instrument()
    with carbon_otel.stage("training", "fit") as stage:
        stage.units(steps=5, samples=40)
    carbon_otel.flush()
    points = application.points(semconv.STAGE_UNITS)
    assert {point.attributes[semconv.UNIT]: point.value for point in points} == counted
    # On its span each rank has its own.
    assert application.spans()["fit"].attributes["carbon_otel.units.steps"] == 5


def test_the_times_of_a_model_that_is_gone_are_kept():
    group, times = Group(), [0.5, None]
    group.ask_step_wait_s = lambda: times.pop(0)
    group.learn_step_wait()
    group.learn_step_wait()
    assert group.step_wait_s == 0.5


def test_a_process_group_tells_before_it_goes():
    group, told = Group(), []
    group.changed.append(lambda there: told.append((there, group.board is not None)))
    group.made(Rank(0, 2), object())
    group.leave()
    assert told == [(True, True), (False, True)] and group.board is None

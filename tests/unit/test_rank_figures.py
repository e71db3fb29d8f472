"""The figures of ranks: added up over the parts of each, and of bounded size however many there are."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest

from carbon_otel.cli.output import Screen
from carbon_otel.cli.report_view import show
from carbon_otel.mlflow.delivery.batch import Batch, decoded, encoded
from carbon_otel.mlflow.schema import contributions, rank_figures
from carbon_otel.mlflow.schema.contributions import Contribution
from tests.unit.test_report import entry, report

MANY = 1024


def part(rank: int, wh: float = 2.0, *, size: int = 4, final: bool = True, **own: float) -> Contribution:
    values = {"carbon/energy_wh": wh, "carbon/emissions_g": wh / 2, "carbon/units/training/samples": 10.0}
    return Contribution(values, final=final, rank={"rank": rank, "world_size": size, "steps": 5.0, **own})


def test_the_parts_of_a_rank_are_added_up_and_those_of_no_rank_left_out():
    nested = {
        "carbon/energy_wh": 3.0,
        "carbon/nested/training/energy_wh": 1.0,
        "carbon/nested/components/cpu_wh": 1.0,
    }
    found = rank_figures.of([part(1), part(0, train_s=7.0), part(1, 3.0, final=False), Contribution(nested)])
    assert [(each.rank, each.energy_wh, each.samples, each.steps, each.final) for each in found] == [
        (0, 2.0, 10.0, 5.0, True),
        (1, 5.0, 20.0, 10.0, False),
    ]
    (figures,) = rank_figures.of([Contribution(nested, rank={"rank": 2})])
    assert figures.energy_wh == 2.0


def test_the_slowest_rank_waits_least():
    waits = {0: 0.02, 1: 0.001, 2: 0.021}
    found = rank_figures.of(part(rank, step_wait_s=wait) for rank, wait in waits.items())
    assert rank_figures.slowest(found).rank == 1
    line = rank_figures.sentence(found)
    assert line.startswith(
        "3 of 4 ranks, 2.00 Wh to 2.00 Wh each; rank 1 is the slowest: a step waits 1.0 ms for"
    )


def test_without_their_waiting_the_slowest_rank_trains_longest():
    found = rank_figures.of(part(rank, train_s=60.0 + 5 * (rank == 2)) for rank in range(4))
    assert rank_figures.slowest(found).rank == 2


@pytest.mark.parametrize("own", [{"step_wait_s": 0.01}, {"train_s": 60.0}])
def test_ranks_that_are_alike_have_no_slowest(own):
    found = rank_figures.of(part(rank, **own) for rank in range(4))
    assert (
        rank_figures.slowest(found) is None
        and rank_figures.sentence(found) == "4 ranks, 2.00 Wh to 2.00 Wh each"
    )


def test_a_rank_that_was_killed_is_said():
    found = rank_figures.of([part(0), part(1, final=False)])
    assert rank_figures.sentence(found).endswith("; 1 not ended in order")


def test_a_thousand_ranks_are_a_line_and_a_short_table():
    parts = {f"{rank:012x}": part(rank, size=MANY, step_wait_s=0.01 * (rank != 700)) for rank in range(MANY)}
    tags = {name: tag for writer, each in parts.items() for name, tag in each.written(writer).items()}
    # A tag for each rank, as for any process in a run.
    assert len(tags) == MANY and max(map(len, tags.values())) < 500
    found = rank_figures.of_tags(tags)
    assert len(found) == MANY and len(rank_figures.sentence(found)) < 200
    assert rank_figures.slowest(found).rank == 700
    made = entry()
    page = io.StringIO()
    show(
        report(type(made)(**{**{name: getattr(made, name) for name in made.__slots__}, "ranks": found})),
        Screen(file=page),
    )
    lines = page.getvalue().splitlines()
    assert len(lines) < 80 and any("1008 others" in line for line in lines)
    assert any(line.split()[:1] == ["700"] for line in lines)


def test_the_report_has_every_rank():
    made = entry()
    found = rank_figures.of(part(rank) for rank in range(3))
    rows = report(
        type(made)(**{**{name: getattr(made, name) for name in made.__slots__}, "ranks": found})
    ).as_dict()["ranks"]
    assert [(row["run_id"], row["rank"], row["energy_wh"]) for row in rows] == [
        (made.run_id, rank, 2.0) for rank in range(3)
    ]


@pytest.mark.parametrize("rank", ['"a"', '{"rank":"1","world_size":2}', "[1]", "null"])
def test_figures_that_a_program_has_spoiled_are_left_out(rank):
    content = json.loads(part(0).written("x")[f"{contributions.PREFIX}x"]) | {"rank": json.loads(rank)}
    spoiled = contributions.read({f"{contributions.PREFIX}x": json.dumps(content)})["x"]
    assert spoiled.values["carbon/energy_wh"] == 2.0 and rank_figures.of([spoiled]) == ()


def test_a_batch_keeps_the_figures_of_a_rank_on_disk():
    batch = Batch("r", 1, {}, {}, 0, 0, rank={"rank": 1.0, "world_size": 2.0})
    assert decoded(encoded(batch)) == batch
    former = encoded(batch)
    for later in ("rank", "begin_ms", "places"):  # a file of an earlier version
        del former[later]
    assert decoded(former) == replace(batch, rank={})
    with pytest.raises(TypeError):
        decoded({**encoded(batch), "rank": {"rank": "one"}})

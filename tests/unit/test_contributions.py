"""Contributions of several processes to one run: complete, in any order, and within the length of a tag."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_otel.mlflow.schema import contributions, hourly
from carbon_otel.mlflow.schema.contributions import Contribution

FIGURES = ("energy_wh", "emissions_g")
sums = st.dictionaries(st.sampled_from(["carbon/energy_wh", "carbon/training/energy_wh"]), st.floats(0, 1e6))
made = st.builds(Contribution, values=sums, step=st.integers(0, 1000), final=st.booleans())


@given(st.dictionaries(st.uuids().map(lambda u: u.hex[:12]), made, max_size=8))
def test_contributions_are_read_back_from_their_tags(written):
    tags = {tag: text for name, part in written.items() for tag, text in part.written(name).items()}
    assert contributions.read({**tags, "carbon.zone": "FR"}) == written


@given(st.lists(made, max_size=8))
def test_the_total_is_the_sum_and_is_final_when_all_are(written):
    total = contributions.total(written)
    for name in ("carbon/energy_wh", "carbon/training/energy_wh"):
        assert total.values.get(name, 0.0) == pytest.approx(sum(p.values.get(name, 0.0) for p in written))
    assert total.final == all(p.final for p in written)
    assert contributions.total([total]) == total


def test_a_contribution_longer_than_a_tag_has_several_tags():
    values = {
        f"carbon/epoch_{number}/{figure}": 1.0 / (number + 3) for number in range(200) for figure in FIGURES
    }
    tags = Contribution(values, final=True).written("x")
    assert len(tags) > 2 and max(map(len, tags.values())) <= 8000
    assert contributions.read(tags)["x"] == Contribution(values, final=True)
    # A shorter contribution that replaces it leaves the last tags of the longer one.
    assert contributions.read(tags | Contribution({"carbon/energy_wh": 2.0}).written("x"))[
        "x"
    ] == Contribution({"carbon/energy_wh": 2.0})


def test_a_truncated_contribution_is_empty_and_unfinished():
    complete = Contribution({"carbon/energy_wh": 2.0}, final=True)
    tags = complete.written("x") | {
        f"{contributions.PREFIX}y": complete.written("y")[f"{contributions.PREFIX}y"][:20]
    }
    assert contributions.read(tags) == {"x": complete, "y": Contribution(readable=False)}


@given(st.lists(st.lists(st.floats(0, 1e6), min_size=1, max_size=30), min_size=1, max_size=12))
def test_the_quarters_of_several_processes_add_up_to_their_run(processes):
    parts = []
    for number, amounts in enumerate(processes):
        spent = hourly.Quarters(1e9 + 977.0 * number)
        for step, wh in enumerate(amounts):
            spent.spend(wh, 611.0 * (step + 1))
        parts.append(Contribution({"carbon/energy_wh": sum(amounts)}, spent.text(), final=True))
    run = contributions.total(parts)
    quarters = hourly.parsed(run.hourly).values()
    assert sum(quarters) == pytest.approx(run.values["carbon/energy_wh"], rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("days", [1, 10, 100, 1000])
def test_a_run_of_years_is_stored_completely(days):
    spent = hourly.Quarters(0.0)
    for hour in range(24 * days):
        spent.spend(1.5, 3600.0 * (hour + 1))
    values = {f"carbon/stage{number}/energy_wh": 1.0 / (number + 3) for number in range(60)}
    tags = Contribution(values, spent.text(), final=True).written("x")
    assert max(map(len, tags.values())) <= 8000
    part = contributions.read(tags)["x"]
    assert part.values == values and part.final
    assert sum(hourly.parsed(part.hourly).values()) == pytest.approx(36 * days, rel=1e-9)

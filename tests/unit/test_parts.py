"""The parts of a run that several processes have written: whole, in any order, and within what a tag holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_otel.mlflow import hours, parts
from carbon_otel.mlflow.parts import Part

FIGURES = ("energy_wh", "emissions_g")
sums = st.dictionaries(st.sampled_from(["carbon/energy_wh", "carbon/training/energy_wh"]), st.floats(0, 1e6))
made = st.builds(Part, values=sums, step=st.integers(0, 1000), final=st.booleans())


@given(st.dictionaries(st.uuids().map(lambda u: u.hex[:12]), made, max_size=8))
def test_tags_say_the_parts(written):
    tags = {tag: text for name, part in written.items() for tag, text in part.tags(name).items()}
    assert parts.read({**tags, "carbon.zone": "FR"}) == written


@given(st.lists(made, max_size=8))
def test_the_sum_is_that_of_all_and_final_with_the_last(written):
    whole = parts.total(written)
    for name in ("carbon/energy_wh", "carbon/training/energy_wh"):
        assert whole.values.get(name, 0.0) == pytest.approx(sum(p.values.get(name, 0.0) for p in written))
    assert whole.final == all(p.final for p in written)
    assert parts.total([whole]) == whole


def test_one_that_is_too_long_for_a_tag_has_several():
    values = {
        f"carbon/epoch_{number}/{figure}": 1.0 / (number + 3) for number in range(200) for figure in FIGURES
    }
    tags = Part(values, final=True).tags("x")
    assert len(tags) > 2 and max(map(len, tags.values())) <= 8000
    assert parts.read(tags)["x"] == Part(values, final=True)
    # A shorter one that is written over it leaves the last tags of the longer.
    assert parts.read(tags | Part({"carbon/energy_wh": 2.0}).tags("x"))["x"] == Part(
        {"carbon/energy_wh": 2.0}
    )


def test_one_that_was_cut_off_has_not_ended_and_leaves_the_others():
    ours = Part({"carbon/energy_wh": 2.0}, final=True)
    tags = ours.tags("x") | {f"{parts.PREFIX}y": ours.tags("y")[f"{parts.PREFIX}y"][:20]}
    assert parts.read(tags) == {"x": ours, "y": Part()}


@pytest.mark.parametrize("days", [1, 10, 100, 1000])
def test_a_run_of_weeks_or_years_is_in_its_tag_to_the_last_watt_hour(days):
    spent = hours.Hours()
    for hour in range(24 * days):
        spent.spend(1.5, 3600.0 * hour, 3600.0 * (hour + 1))
    values = {f"carbon/stage{number}/energy_wh": 1.0 / (number + 3) for number in range(60)}
    tags = Part(values, spent.text(), final=True).tags("x")
    assert max(map(len, tags.values())) <= 8000
    part = parts.read(tags)["x"]
    assert part.values == values and part.final
    assert sum(hours.parsed(part.hourly).values()) == pytest.approx(36 * days, rel=1e-5)

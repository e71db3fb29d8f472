"""Sums of footprints: nothing is lost, bands follow what the parts have in common, and order does not matter."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_otel.carbon.grid import intensity
from carbon_otel.carbon.life_cycle import Embodied, Market
from carbon_otel.carbon.water import Water
from carbon_otel.footprint import NOT_MEASURED, Cost, Footprint
from carbon_otel.provenance import Band
from tests.fakes.grid import grid_of

FR, DE = intensity("FR"), intensity("DE")
amount = st.floats(0, 1e6)
ratio = st.floats(0, 1)


def footprint(joules=100.0, *, below=0.1, above=0.2, devices=("cpu",), grid=FR, grid_band=0.3, **more):
    """A footprint with relative bands of its energy and of its grid."""
    grams = joules * 0.01
    shares = {device: joules / len(devices) for device in devices}
    return replace(
        NOT_MEASURED,
        energy_j=joules,
        exclusive_j=joules / 2,
        emissions_g=grams,
        exclusive_g=grams / 2,
        low_j=joules * (1 - below),
        high_j=joules * (1 + above),
        low_g=grams * max(0.0, 1 - math.hypot(below, grid_band)),
        high_g=grams * (1 + math.hypot(above, grid_band)),
        duration_s=2.0,
        measured_fraction=1.0,
        method="measured.counter",
        devices=shares,
        devices_inclusive=shares,
        components={"cpu": joules},
        intensity=grid,
        flags=(),
        **more,
    )


some = st.builds(
    footprint,
    amount,
    below=ratio,
    above=st.floats(0, 3),
    devices=st.sampled_from([("cpu",), ("cpu", "gpu"), ("gpu",), ("other cpu",)]),
    grid=st.sampled_from([FR, DE, None]),
    grid_band=ratio,
    pue=st.floats(1, 2),
    units=st.dictionaries(st.sampled_from(["samples", "tokens"]), amount),
    stages=st.dictionaries(st.sampled_from(["training", "run"]), st.builds(Cost, amount, amount)),
)
any_of_them = st.one_of(some, st.just(NOT_MEASURED))


def close(one: object, two: object) -> bool:
    if isinstance(one, float) and isinstance(two, float):
        return math.isclose(one, two, rel_tol=1e-9, abs_tol=1e-9) or (math.isnan(one) and math.isnan(two))
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(close(one[key], two[key]) for key in one)
    if isinstance(one, Cost) and isinstance(two, Cost):
        return all(map(close, one, two))
    return one == two


@given(any_of_them, any_of_them, any_of_them)
def test_the_order_of_additions_makes_no_difference(one, two, three):
    left, right = (one + two) + three, one + (two + three)
    for field in fields(Footprint):
        if field.name != "deviations":
            assert close(getattr(left, field.name), getattr(right, field.name)), field.name


@given(st.lists(some, min_size=1, max_size=5))
def test_a_sum_has_the_energy_of_its_parts_within_its_band(parts):
    whole = sum(parts)
    assert whole.energy_j == pytest.approx(math.fsum(part.energy_j for part in parts))
    assert whole.exclusive_g == pytest.approx(math.fsum(part.exclusive_g for part in parts))
    assert sum(whole.devices.values()) == pytest.approx(math.fsum(sum(p.devices.values()) for p in parts))
    assert 0 <= whole.low_j <= whole.energy_j <= whole.high_j
    assert 0 <= whole.low_g <= whole.emissions_g <= whole.high_g
    # No part can be off by less in the sum than alone, and all together not by more than their sum.
    below, above = whole.energy_j - whole.low_j, whole.high_j - whole.energy_j
    assert max(p.high_j - p.energy_j for p in parts) <= above * (1 + 1e-9) + 1e-6
    assert above <= sum(p.high_j - p.energy_j for p in parts) * (1 + 1e-9) + 1e-6
    assert below <= sum(p.energy_j - p.low_j for p in parts) * (1 + 1e-9) + 1e-6


@given(any_of_them)
def test_zero_is_neutral(one):
    assert one + 0 is one and 0 + one is one and sum([one]) is one


@pytest.mark.parametrize("other", [1, 0.5, "1", None])
def test_nothing_else_can_be_added(other):
    with pytest.raises(TypeError):
        footprint() + other


def test_deviations_of_the_same_devices_add_up():
    whole = footprint(100) + footprint(300)
    assert (whole.low_j, whole.high_j) == pytest.approx((360, 480))
    assert whole.low_g == pytest.approx(4 * (1 - math.hypot(0.1, 0.3)))
    assert whole.high_g == pytest.approx(4 * (1 + math.hypot(0.2, 0.3)))


def test_deviations_of_other_devices_and_grids_combine_in_quadrature():
    whole = footprint(300, above=0.1) + footprint(400, above=0.1, devices=("other",), grid=DE)
    assert whole.high_j == pytest.approx(750)
    relative = math.hypot(0.1, 0.3)
    assert whole.high_g == pytest.approx(7 + math.hypot(3 * relative, 4 * relative))


def test_devices_in_part_the_same_count_as_the_same():
    whole = footprint(100, devices=("cpu",)) + footprint(100, devices=("gpu",))
    whole += footprint(100, devices=("cpu", "gpu"))
    assert whole.high_j == pytest.approx(360)


def test_a_part_that_was_not_measured_makes_a_lower_bound():
    whole = sum([footprint(), NOT_MEASURED, footprint()])
    assert (whole.energy_j, whole.low_j, whole.high_j) == (200, 180, math.inf)
    assert "not_measured" in whole.flags and whole.method == "measured.counter+missing"
    assert "at least" in repr(whole)
    assert json.loads(json.dumps(whole.as_dict(), allow_nan=False))["high_j"] is None
    assert math.isnan((NOT_MEASURED + NOT_MEASURED).energy_j)


def test_the_intensity_is_that_of_one_grid_or_none():
    assert (footprint() + footprint()).intensity is FR
    assert (footprint() + footprint(grid=DE)).intensity is None
    assert (footprint() + footprint(0, grid=DE)).intensity is FR
    noon, night = grid_of(100.0, Band(0.9, 1.1, "hour"), "FR"), grid_of(300.0, Band(0.8, 1.1, "hour"), "FR")
    first = replace(footprint(3.6e6, grid=noon), emissions_g=100.0)
    second = replace(footprint(3 * 3.6e6, grid=night), emissions_g=900.0)
    mean = (first + second).intensity
    assert mean is not None and mean.g_per_kwh == pytest.approx(250)
    assert (mean.band.low, mean.band.high) == (0.8, 1.1)


def test_what_stands_beside_the_emissions_is_added_too():
    made = Embodied(4.0, 2.0, 3.0, 6.0, {"training": 2.0}, 4.0, "a table")
    beside = {
        "embodied": made,
        "market": Market(3.0, 1.0, FR),
        "water": Water(1.0, 0.5, 2.0, "a table"),
        "region": "gcp:europe-west9",
        "pue_source": "given",
        "shares": {"process": 0.5},
        "pue": 1.2,
    }
    whole = footprint(**beside) + footprint(**beside)
    assert whole.embodied == Embodied(8.0, 4.0, 6.0, 12.0, {"training": 4.0}, 4.0, "a table")
    assert whole.market == Market(6.0, 2.0, FR)
    assert whole.water == Water(2.0, 1.0, 4.0, "a table")
    assert (whole.region, whole.pue_source, whole.pue) == ("gcp:europe-west9", "given", pytest.approx(1.2))
    assert whole.shares == {"process": 0.5}


def test_what_one_part_does_not_know_is_unknown():
    made = Embodied(4.0, 2.0, 3.0, 6.0, {"training": 2.0}, 4.0, "a table")
    whole = footprint(embodied=made, market=Market(3.0, 1.0, FR)) + footprint(
        embodied_unknown=("gpu",), market=Market(3.0, 1.0, DE)
    )
    assert (whole.embodied, whole.embodied_unknown, whole.market, whole.water) == (None, ("gpu",), None, None)

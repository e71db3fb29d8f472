"""The uncertainty of a stage's figure of one device, from the states of the meter at its edges."""

from __future__ import annotations

import pytest

from carbon_otel.meter.meter import EdgeState
from carbon_otel.stages.uncertainty import device_energies, shares_between
from tests.fakes.clock import NS, Clock
from tests.fakes.sensors import FakeSensor

WATTS = 100.0


def edge(at_s: float, joules: float, *, read_s: float | None = None, took_s: float = 0.0) -> EdgeState:
    """An edge of a device at 100 W, read at `read_s` or at the edge, with the timeline at `joules`."""
    read_ns = round((at_s if read_s is None else read_s) * NS)
    read_j = joules - WATTS * (at_s * NS - read_ns) / NS
    device = (joules, read_j, WATTS, read_ns, round(took_s * NS))
    return EdgeState(round(at_s * NS), (device,), None, (1.0,))


def doubt(begin: EdgeState, end: EdgeState, **sensor) -> tuple[float, float]:
    made = FakeSensor(Clock(), update_period_s=0.0, power_bounds_w=(20.0, 300.0), **sensor)
    joules = end.devices[0][0] - begin.devices[0][0]
    (energy,) = device_energies((made,), begin, end, (joules,), (joules,))
    return energy.below_j, energy.above_j


def test_edges_with_prompt_readings_have_no_uncertainty():
    assert doubt(edge(1, 0), edge(2, 100)) == (0, 0)


def test_an_edge_without_a_new_reading_is_as_uncertain_as_the_power_since_the_last_one():
    # For half a second 100 W were assumed, while the device drew between 20 and 300 W.
    late = edge(2, 100, read_s=1.5)
    assert doubt(edge(1, 0), late) == pytest.approx((0.5 * 80, 0.5 * 200))


def test_a_slow_reading_may_be_of_any_moment_until_it_ended():
    # The reading may include at most 0.1 s at 300 W from after the edge.
    assert doubt(edge(1, 0), edge(2, 100, took_s=0.1)) == pytest.approx((30, 0))
    assert doubt(edge(1, 0, took_s=0.1), edge(2, 100)) == pytest.approx((0, 30))


def test_of_a_step_of_the_counter_a_stage_has_the_part_that_it_has_of_the_energy():
    begin, end = edge(1, 0), edge(3, 200)
    counter = FakeSensor(Clock(), update_period_s=0.1, power_bounds_w=(20.0, 300.0))
    (whole,) = device_energies((counter,), begin, end, (200.0,), (200.0,))
    (part,) = device_energies((counter,), begin, end, (2.0,), (2.0,))
    assert whole.above_j == pytest.approx(200 / 1.9 * 0.1)
    assert part.above_j == part.below_j == pytest.approx(whole.above_j / 100)


def test_the_mean_share_between_two_edges_is_within_its_bounds():
    begin = EdgeState(0, (), None, (), reserved_s=0.0, process_s=0.0)
    end = EdgeState(2 * NS, (), None, (), reserved_s=1.0, process_s=2.1)
    assert shares_between(begin, end) == {"reserved": 0.5, "process": 1.0}
    assert shares_between(begin, begin) == {}

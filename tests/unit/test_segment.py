"""The states of a run or of a window, one after another."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_otel.carbon.grid import EmissionFactor, intensity
from carbon_otel.footprint import footprint_of
from carbon_otel.mlflow.delivery.batch import LedgerRun
from carbon_otel.mlflow.delivery.segment import Segment
from carbon_otel.mlflow.schema import hourly, names
from carbon_otel.records import Cost, DeviceEnergy, StageRecord
from tests.fakes.clock import Clock
from tests.fakes.sensors import package

FACTOR = EmissionFactor(intensity("FR"))
DEVICE = package(Clock()).device
BEGIN_S = 1_790_000_000.0


def figures(joules: float, seconds: float):
    grams = FACTOR.emissions_g(joules)
    return footprint_of(
        StageRecord(
            kind="run",
            name="r",
            start_unix_ns=0,
            duration_s=seconds,
            devices=(DeviceEnergy(DEVICE, joules, joules),),
            exclusive_g=grams,
            inclusive_g=grams,
            by_kind={"training": Cost(joules, grams)},
        ),
        FACTOR,
    )


def test_the_first_state_of_a_run_has_tags_and_no_metric():
    batch = Segment(7, BEGIN_S, run_id="r").opening({"carbon.status": "running"})
    assert batch.values == {} and batch.tags == {"carbon.status": "running"}
    assert batch.segment == 7 and batch.run_id == "r" and not batch.final


def test_power_is_the_mean_since_the_state_before():
    segment = Segment(1, BEGIN_S, run_id="r")
    segment.opening({})
    for seconds in range(1, 4):
        segment.state(figures(100, 10), {}, seconds)
    segment.state(figures(100, 10), {}, 10)
    batch = segment.state(figures(400, 20), {}, 20)
    assert batch.gauges == {"carbon/power/package-0_w": pytest.approx(30)}
    assert batch.step == 4


def test_a_forecast_is_shown_at_the_next_state_and_is_no_sum():
    """Else a forecast in the run would wait until the age of the run has doubled."""
    segment = Segment(1, BEGIN_S, run_id="r")
    segment.opening({})
    times = [float(15 * i) for i in range(1, 101)]
    batches = [segment.state(figures(t, t), {}, t) for t in times]
    due = [batch.bars for batch in batches]
    assert not all(due)
    segment.foresee({"carbon/forecast/energy_p50_wh": 3.0})
    quiet = times[due.index(False)]
    first, second = (segment.state(figures(t, t), {}, 1500 + t) for t in (quiet, quiet + 1))
    assert first.bars and first.drawn(first.gauges)["carbon/forecast/energy_p50_wh"] == 3.0
    assert second.gauges["carbon/forecast/energy_p50_wh"] == 3.0
    assert "carbon/forecast/energy_p50_wh" not in second.values


def test_states_at_the_same_moment_are_in_order():
    segment = Segment(1, BEGIN_S, run_id="r")
    stamps = [segment.state(figures(1, 1), {}, 0).timestamp_ms for _ in range(3)]
    assert stamps == sorted(set(stamps))


def test_times_are_the_start_plus_what_the_monotonic_clock_has_counted():
    segment = Segment(1, BEGIN_S, run_id="r", clock_s=5000)
    batch = segment.state(figures(3600, 10), {}, 5010)
    assert batch.timestamp_ms == (BEGIN_S + 10) * 1000
    assert hourly.parsed(batch.hourly) == {"2026-09-21T14:00": 1.0}


def test_nested_runs_are_left_out_of_the_hours():
    segment = Segment(1, BEGIN_S, run_id="r")
    nested = names.subtotals(figures(60, 10))
    batch = segment.state(figures(100, 10), {}, 10, of_nested=nested)
    assert sum(hourly.parsed(batch.hourly).values()) * 3600 == pytest.approx(40)
    assert batch.values["carbon/nested/training/energy_wh"] * 3600 == pytest.approx(60)


def test_a_window_of_any_size_is_packed_and_read_back():
    kinds = {f"kind_{number}": Cost(1.0, 0.1) for number in range(200)}
    units = {f"kind_{number}/samples": 5.0 for number in range(200)}
    ledger_run = LedgerRun("id", "inference m", int(BEGIN_S * 1000), model_id="m")
    segment = Segment(1, BEGIN_S, ledger_run=ledger_run)
    footprint = replace(figures(200, 10), stages=kinds)
    batch = segment.state(footprint, {"carbon.status": "final"}, 10, units=units, final=True)
    assert batch.final and segment.ended and all(len(value) <= 8000 for value in batch.tags.values())
    values, tags = names.unpack(batch.values, batch.tags)
    assert values["carbon/units/kind_199/samples"] == 5.0
    assert values["carbon/kind_199/energy_wh"] * 3600 == pytest.approx(1)
    assert tags["carbon.model_id"] == "m" and tags["carbon.status"] == "final"
    assert "carbon/energy_kwh" not in values


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0.001, 7200)), min_size=1, max_size=20))
def test_the_hours_add_up_to_the_energy(spent):
    segment = Segment(1, BEGIN_S, run_id="r")
    joules = seconds = 0.0
    for more_j, more_s in spent:
        joules, seconds = joules + more_j, seconds + more_s
        batch = segment.state(figures(joules, seconds), {}, seconds)
    hours = hourly.parsed(batch.hourly)
    assert sum(hours.values()) * 3600 == pytest.approx(joules, rel=1e-9, abs=1e-12)

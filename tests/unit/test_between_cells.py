"""The energy between cells is what nobody has paid for in that time, and is taken from nothing else."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from carbon_otel import runtime
from carbon_otel.carbon.life_cycle import Embodied
from carbon_otel.footprint import Cost, Footprint
from carbon_otel.footprint.shown import BETWEEN_CELLS
from carbon_otel.notebook.between_cells import BetweenCells
from tests.unit.test_footprint_sums import footprint


class Measurement:
    """What has been paid for so far, in joules by kind; a joule emits 0.01 g, and making it 0.1 g."""

    def __init__(self, **joules: float) -> None:
        self.joules = joules

    def footprint(self) -> Footprint:
        made = {kind: 0.1 * joules for kind, joules in self.joules.items()}
        whole = sum(self.joules.values())
        return replace(
            footprint(whole),
            stages={kind: Cost(joules, 0.01 * joules) for kind, joules in self.joules.items()},
            embodied=Embodied(0.1 * whole, 0.1 * whole, 0.0, whole, made, 4.0, "a table"),
        )


@pytest.fixture
def measurement(monkeypatch):
    made = Measurement(unattributed=10.0, run=20.0, training=30.0)
    monkeypatch.setattr(runtime, "_active", made)
    return made


def kinds(between: BetweenCells) -> dict[str, float]:
    return {kind: cost.energy_j for kind, cost in between.footprint().stages.items()}


def test_the_difference_of_what_no_stage_has_paid_for(measurement):
    between = BetweenCells()
    between.begin()
    measurement.joules = {"unattributed": 14.0, "run": 26.0, "training": 90.0}
    between.end()
    measurement.joules["unattributed"] += 1.0  # in a cell
    expected = {"unattributed": 11.0, "run": 20.0, "training": 90.0, BETWEEN_CELLS: 10.0}
    assert kinds(between) == pytest.approx(expected)
    whole = between.footprint()
    assert whole.stages[BETWEEN_CELLS].emissions_g == pytest.approx(0.1)
    assert whole.embodied is not None
    assert whole.embodied.by_kind == pytest.approx({kind: 0.1 * joules for kind, joules in expected.items()})
    between.begin()
    measurement.joules["unattributed"] += 3.0
    between.end()
    assert kinds(between)[BETWEEN_CELLS] == pytest.approx(13.0)


def test_another_measurement_has_sums_of_its_own(measurement, monkeypatch):
    between = BetweenCells()
    between.begin()
    measurement.joules["unattributed"] = 50.0
    between.end()
    between.begin()
    other = Measurement(unattributed=99.0)
    monkeypatch.setattr(runtime, "_active", other)
    between.end()
    assert BETWEEN_CELLS not in kinds(between), "nothing of it was between cells yet"
    between.begin()
    other.joules["unattributed"] = 100.0
    between.end()
    assert kinds(between) == pytest.approx({"unattributed": 99.0, BETWEEN_CELLS: 1.0})


def test_without_a_measurement(monkeypatch):
    monkeypatch.setattr(runtime, "_active", None)
    between = BetweenCells()
    between.begin()
    between.end()
    assert math.isnan(between.footprint().energy_j)


def test_an_end_without_a_begin(measurement):
    between = BetweenCells()
    between.end()
    assert BETWEEN_CELLS not in kinds(between)

"""Footprints: combined bands, figures per unit, and figures that are not known."""

from __future__ import annotations

import json
import math

import pytest

import carbon_otel
from carbon_otel.carbon.grid import EmissionFactor
from carbon_otel.footprint import NOT_MEASURED, Cost, Energy, footprint_of
from carbon_otel.lifecycle.report import Report
from carbon_otel.provenance import Band, combined
from carbon_otel.records import DeviceEnergy, StageRecord
from carbon_otel.sensors.base import Device
from tests.fakes.grid import grid_of

GRID = grid_of(360.0, Band(0.6, 1.4, "annual"), "FR")
FACTOR = EmissionFactor(GRID, pue=1.5)


def part(device_id, device_type, joules, low, high, method="measured.counter", exclusive=0.0, **more):
    device = Device(device_id, device_type, device_id, method, Band(low, high, "test"), "test")
    return DeviceEnergy(device, exclusive, joules, **more)


def record(*devices, grams=1.0, **more):
    return StageRecord("training", "fit", 0, 2.0, devices, grams / 2, grams, **more)


def of(*devices, missing=(), **more):
    return footprint_of(record(*devices, **more), FACTOR, missing)


def test_independent_devices_combine_in_quadrature_and_the_grid_with_them():
    f = of(part("a", "cpu", 300, 0.9, 1.1), part("b", "gpu", 400, 0.9, 1.1), grams=7)
    assert (f.energy_j, f.low_j, f.high_j) == pytest.approx((700, 650, 750))
    spread = math.hypot(50 / 700, 0.4)
    assert (f.low_g, f.high_g) == pytest.approx((7 * (1 - spread), 7 * (1 + spread)))


def test_within_a_device_band_and_deviation_add_up():
    f = of(part("a", "cpu", 100, 0.9, 1.2, below_j=5, above_j=7))
    assert (f.low_j, f.high_j) == pytest.approx((85, 127))


def test_the_low_end_is_never_negative():
    f = of(part("a", "cpu", 10, 0.0, 9.0, below_j=10), grams=3)
    assert (f.low_j, f.low_g) == (0, 0)
    assert f.high_g > 3


def test_measured_fraction_method_and_components():
    f = of(
        part("package-0", "cpu", 60, 1, 1, exclusive=6),
        part("package-1", "cpu", 20, 1, 1, filled_j=10, gap_s=2, flags=frozenset({"gap"})),
        part("ram", "memory", 20, 0.3, 2, "modelled.constant"),
    )
    assert f.measured_fraction == pytest.approx(0.7)
    assert f.method == "measured.counter+modelled.constant"
    assert f.components == {"cpu": 80, "memory": 20}
    assert f.devices == {"package-0": 6, "package-1": 0, "ram": 0}
    assert f.devices_inclusive == {"package-0": 60, "package-1": 20, "ram": 20}
    assert (f.gap_s, f.flags) == (2, ("gap:package-1",))


def test_a_device_without_energy_is_not_in_the_method():
    f = of(part("a", "cpu", 5, 1, 1), part("b", "memory", 0, 1, 1, "modelled.constant"))
    assert f.method == "measured.counter"


def test_a_missing_component_is_in_the_method():
    f = of(part("a", "cpu", 5, 1, 1), missing=("memory",))
    assert (f.method, f.missing) == ("measured.counter+missing", ("memory",))


def test_a_stage_without_energy_yet():
    f = of(part("a", "cpu", 0, 0.9, 1.1), grams=0)
    assert (f.energy_j, f.low_j, f.high_j, f.low_g, f.high_g) == (0, 0, 0, 0, 0)
    assert (f.measured_fraction, f.method) == (1, "measured.counter")


def test_more_filled_than_inclusive_joules_count_as_not_measured():
    f = of(part("a", "cpu", 10, 1, 1, filled_j=15), part("b", "cpu", 10, 1, 1))
    assert f.measured_fraction == 0.5


def test_figures_per_unit_and_in_other_units():
    f = of(part("a", "cpu", 3600, 1, 1), grams=10, units={"samples": 100, "epochs": 0})
    assert f.per_unit == {"samples": Cost(energy_j=36, emissions_g=0.1)}
    joules, grams = f.per_unit["samples"]
    assert (joules, grams) == (36, 0.1)
    assert (f.energy_wh, f.energy_kwh, f.emissions_kg) == (1, 0.001, 0.01)


def test_as_dict_is_plain_json_with_the_sources_of_the_factors():
    f = of(part("a", "cpu", 100, 0.9, 1.1), units={"samples": 10}, by_kind={"training": Cost(60, 0.6)})
    figures = json.loads(json.dumps(f.as_dict()))
    assert figures["energy_j"] == 100 and figures["pue"] == 1.5
    assert figures["intensity"] == {
        "zone": "FR",
        "g_per_kwh": 360,
        "year": 2024,
        "kind": "average",
        "signal": {"kind": "average", "method": "location", "scope": "lifecycle", "basis": "production"},
        "losses": "unknown",
        "source": "a table",
    }
    assert figures["per_unit"] == {"samples": {"energy_j": 10, "emissions_g": 0.1}}
    assert figures["stages"] == {"training": {"energy_j": 60, "emissions_g": 0.6}}
    assert figures.pop("embodied_g") is None, "no hardware is known here"
    assert all(value is not None for value in figures.values())


def test_a_process_has_the_cost_of_each_kind_of_stage():
    f = of(part("a", "cpu", 100, 0.9, 1.1), by_kind={"training": Cost(60, 0.6)})
    assert f.stages["training"].energy_j == 60 and f.stages["training"].emissions_g == 0.6


def test_exclusive_and_inclusive_views():
    f = of(part("a", "cpu", 60, 1, 1, exclusive=6), part("b", "gpu", 40, 1, 1, exclusive=4), grams=2)
    assert f.exclusive == Energy(10, 1, {"a": 6, "b": 4})
    assert f.inclusive == Energy(100, 2, {"a": 60, "b": 40})


def test_every_public_name_is_importable():
    for name in carbon_otel.__all__:
        assert getattr(carbon_otel, name) is not None
    assert carbon_otel.Report is Report
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        carbon_otel.nothing  # noqa: B018 - raises


def test_a_figure_that_was_not_measured_is_none_and_never_zero():
    assert footprint_of(record(), FACTOR) is NOT_MEASURED
    values = NOT_MEASURED.as_dict()
    figures = {k for k in values if k.endswith(("_j", "_g", "_kwh"))}
    assert len(figures) == 10 and all(values[k] is None for k in figures)
    assert values["method"] == "missing" and values["measured_fraction"] == 0
    assert json.loads(json.dumps(values, allow_nan=False))
    assert math.isnan(NOT_MEASURED.energy_wh)


def test_tiers_are_joined_best_first():
    assert combined(["modelled.constant", "measured.power", "measured.counter"]) == (
        "measured.counter+measured.power+modelled.constant"
    )
    assert combined([]) == "missing"


@pytest.mark.parametrize(("low", "high"), [(1.1, 1.2), (0.5, 0.9), (-0.1, 1)])
def test_a_band_must_enclose_its_value(low, high):
    with pytest.raises(ValueError, match="enclose"):
        Band(low, high, "test")

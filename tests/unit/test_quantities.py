"""Figures as people read them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_otel import quantities
from carbon_otel.quantities import EMISSIONS, ENERGY, POWER, duration, emissions, energy, power

AMOUNTS = st.floats(1e-5, 1e15)


@pytest.mark.parametrize(
    ("joules", "shown"),
    [
        (0.0, "0 J"),
        (3.216e-16, "3.22e-16 J"),
        (2e-7, "0.200 µJ"),
        (0.0123, "12.3 mJ"),
        (0.9996, "1.00 J"),
        (36.0, "36.0 J"),
        (999.4, "999 J"),
        (999.6, "0.278 Wh"),
        (3600 * 12.4149, "12.4 Wh"),
        (3.6e6 * 0.9996, "1.00 kWh"),
        (3.6e6 * 22.64, "22.6 kWh"),
        (3.6e9 * 1287, "1.29 GWh"),
        (3.6e15 * 23456, "23,456 TWh"),
        (math.nan, "unknown"),
    ],
)
def test_energy(joules, shown):
    assert energy(joules) == shown


@pytest.mark.parametrize(
    ("figures", "shown"),
    [
        ((12.4, 11.8, 13.1), "12.4 Wh (11.8 to 13.1)"),
        ((12.4, 4.0, 41.0), "12 Wh (4.0 to 41)"),
        ((12.4, 0.0, 1234.0), "12 Wh (0 to 1,234)"),
        ((12.4, 0.00039, 41.0), "12 Wh (0 to 41)"),
        ((12.4, -3.1, 41.0), "12 Wh (-3.1 to 41)"),
        ((12.4, 11.8, math.inf), "12 Wh (at least 12)"),
        ((12.4, math.nan, math.nan), "12.4 Wh"),
    ],
)
def test_a_band_is_in_the_unit_of_its_figure(figures, shown):
    assert energy(*(3600 * figure for figure in figures)) == shown


@pytest.mark.parametrize(
    ("grams", "shown"),
    [
        (0.0, "0 g"),
        (0.000118, "118 µg"),
        (0.414, "414 mg"),
        (4.7521, "4.75 g"),
        (1200.0, "1.20 kg"),
        (5.5e8, "550 t"),
    ],
)
def test_emissions(grams, shown):
    assert emissions(grams) == shown


def test_what_the_grams_are_of_stands_beside_their_unit():
    assert emissions(0.0032, 0.0029, 0.0035, of="CO2e") == "3.20 mg CO2e (2.90 to 3.50)"
    assert emissions(4.75, of="CO2e") == "4.75 g CO2e"


def test_power():
    assert [power(watts) for watts in (0, 0.0451, 45.1, 7e3)] == ["0 W", "45.1 mW", "45.1 W", "7.00 kW"]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"),
        (0.0000352, "35 µs"),
        (0.00099996, "1.0 ms"),
        (0.0352, "35 ms"),
        (0.9991, "999 ms"),
        (0.9997, "1.0 s"),
        (8.26, "8.3 s"),
        (59.97, "1 min"),
        (252, "4 min 12 s"),
        (3599.7, "1 h"),
        (7500, "2 h 5 min"),
        (86_399, "1 d"),
        (273_600, "3 d 4 h"),
        (math.nan, "unknown"),
    ],
)
def test_duration(seconds, shown):
    assert duration(seconds) == shown


def test_a_row_has_one_unit():
    unit = quantities.unit(ENERGY, 9.17, 20.4, 61.5, math.nan)
    assert unit.name == "J"
    assert [unit.number(joules) for joules in (9.17, 20.4, 0.015, math.nan)] == [
        "9.17",
        "20.4",
        "0.0150",
        "unknown",
    ]


@pytest.mark.parametrize(
    ("joules", "shown"),
    [
        ([44_640.0, 36.0, 0.0], ["12.4 Wh", "0.0100 Wh", "0 Wh"]),
        ([44_640.0, 3.0, math.nan], ["12.4 Wh", "3.00 J", "unknown"]),
        ([], []),
    ],
)
def test_a_column_has_one_unit_where_its_figures_are_readable_in_one(joules, shown):
    assert quantities.column(ENERGY, joules) == shown


def test_watt_hours():
    assert quantities.watt_hours(12.4) == "12.4 Wh"
    assert quantities.watt_hours(0.0124, 0.0118, 0.0131) == "44.6 J (42.5 to 47.2)"


@given(amount=AMOUNTS, units=st.sampled_from((ENERGY, EMISSIONS, POWER)))
def test_a_text_says_what_was_meant(amount, units):
    number, name = quantities.text(units, amount).split(" ")
    [size] = [unit.size for unit in units if unit.name == name]
    assert float(number.replace(",", "")) * size == pytest.approx(amount, rel=6e-3)


@given(amount=st.floats(1e-3, 1e12), units=st.sampled_from((ENERGY, EMISSIONS, POWER)))
def test_no_text_has_many_digits(amount, units):
    number = quantities.text(units, amount).split(" ")[0]
    assert len(number.replace(".", "").replace(",", "")) <= 4

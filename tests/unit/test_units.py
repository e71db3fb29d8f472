"""Figures as text."""

from __future__ import annotations

import pytest

from carbon_otel.units import emissions, energy


@pytest.mark.parametrize(
    ("wh", "shown"), [(0.0, "0 Wh"), (12.4149, "12.41 Wh"), (999.9, "999.9 Wh"), (22640.0, "22.64 kWh")]
)
def test_energy(wh, shown):
    assert energy(wh) == shown


@pytest.mark.parametrize(
    ("grams", "shown"), [(0.000118, "0.000118 g"), (4.7521, "4.752 g"), (1200.0, "1.2 kg")]
)
def test_emissions(grams, shown):
    assert emissions(grams) == shown

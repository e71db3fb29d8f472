"""The arithmetic of a report, on entries made by hand."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_otel.cli.output import Screen
from carbon_otel.cli.report_view import show
from carbon_otel.lifecycle.entry import Entry, LedgerCost
from carbon_otel.lifecycle.ledger import Ledger
from carbon_otel.lifecycle.report import report_of


def entry(number=0, wh=10.0, grams=5.0, hardware="a", zone="FR", energy_band=0.1, grid_band=0.4):
    band = math.hypot(energy_band, grid_band)
    return Entry(
        run_id=f"{number:032x}",
        name=f"run {number}",
        experiment_id="1",
        status="FINISHED",
        start_ms=0,
        stages={"training": LedgerCost(wh, grams)},
        low_wh=wh * (1 - energy_band),
        high_wh=wh * (1 + energy_band),
        low_g=grams * (1 - band),
        high_g=grams * (1 + band),
        measured_wh=wh,
        duration_s=3600.0,
        units={},
        components={"cpu": wh},
        tags={"carbon.status": "final", "carbon.hardware": hardware, "carbon.zone": zone, "carbon.pue": "1"},
    )


def report(*entries, **recomputed_for):
    return report_of(Ledger("churn", entries), **recomputed_for)


def band(total):
    return total.high_g / total.emissions_g - 1


@given(st.integers(1, 20), st.floats(0.01, 0.5), st.floats(0.01, 0.9))
def test_entries_on_the_same_hardware_and_grid_have_the_band_of_one(count, energy_band, grid_band):
    found = report(*(entry(i, energy_band=energy_band, grid_band=grid_band) for i in range(count))).total
    assert band(found) == pytest.approx(math.hypot(energy_band, grid_band), rel=1e-9)
    assert found.high_wh / found.energy_wh - 1 == pytest.approx(energy_band, rel=1e-9)


def test_more_hardware_does_not_narrow_the_band_of_the_grid():
    """An error of the intensity of a zone applies to all energy used there."""
    found = report(*(entry(i, hardware=f"host {i}") for i in range(4))).total
    assert band(found) == pytest.approx(math.hypot(0.1 / 2, 0.4), rel=1e-9)
    assert found.high_wh / found.energy_wh - 1 == pytest.approx(0.1 / 2, rel=1e-9)


def test_errors_of_several_grids_are_independent():
    found = report(*(entry(i, zone=zone) for i, zone in enumerate(("FR", "DE", "PL", "US")))).total
    assert band(found) == pytest.approx(math.hypot(0.1, 0.4 / 2), rel=1e-9)


def test_recomputed_emissions_name_their_grid():
    (recomputed,) = report(entry(), zone="PL", year=2022).entries
    assert recomputed.tags["carbon.zone"] == "PL" and recomputed.tags["carbon.intensity_year"] == "2022"
    assert float(recomputed.tags["carbon.intensity_g_per_kwh"]) == pytest.approx(
        recomputed.emissions_g / recomputed.energy_wh * 1000, rel=1e-5
    )


def test_the_error_for_a_year_without_a_figure_names_the_entry_and_the_remedy():
    with pytest.raises(ValueError, match=r"run 1: no figure of World average for 2022.*write a zone"):
        report(entry(), entry(1, zone="WORLD"), year=2022)
    assert report(entry(), entry(1, zone="WORLD"), zone="FR", year=2022).total.emissions_g > 0


def test_runs_of_one_name_are_told_apart():
    one, two, three = (replace(entry(number), name=name) for number, name in enumerate(["a", "a", "b"]))
    ids = [replace(each, run_id=f"{number}{'0' * 31}") for number, each in enumerate((one, two, three))]
    found = report(*ids)
    assert [attempt.name for attempt in found.attempts] == ["a 00000000", "a 10000000", "b"]


def test_a_sum_over_several_grids_says_so():
    def priced(number, zone, intensity):
        known = entry(number, zone=zone)
        return replace(known, tags={**known.tags, "carbon.intensity_g_per_kwh": intensity})

    mixed = report(priced(0, "WORLD", "475"), priced(1, "FR", "44.1791"), priced(2, "FR", "44.1791"))
    assert mixed.grids == {"WORLD 475 g/kWh": 1, "FR 44.1791 g/kWh": 2}
    screen = Screen(file=io.StringIO(), width=200)
    show(mixed, screen)
    text = screen.file.getvalue()
    assert "the emissions mix WORLD 475 g/kWh (1); FR 44.1791 g/kWh (2); --zone computes all by one" in text
    assert len(report_of(Ledger("churn", mixed.entries), zone="DE").grids) == 1

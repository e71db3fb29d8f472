"""The arithmetic of a report, on entries made by hand."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_otel.carbon.grid import intensity
from carbon_otel.carbon.regions import region
from carbon_otel.carbon.water import water_factor
from carbon_otel.cli.output import Screen
from carbon_otel.cli.report_view import show
from carbon_otel.lifecycle.beside import EntryBeside
from carbon_otel.lifecycle.entry import Entry, LedgerCost
from carbon_otel.lifecycle.ledger import Ledger
from carbon_otel.lifecycle.report import report_of
from carbon_otel.mlflow.schema import names


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


def text_of(found):
    console = Screen(file=io.StringIO(), width=200)
    show(found, console)
    return console.file.getvalue()


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


def test_emissions_of_unlike_intensities_are_said():
    direct = entry(1, zone="US-SRVC")
    direct = replace(direct, tags={**direct.tags, **names.intensity_tags(intensity("US-SRVC"))})
    assert report(entry()).signals == ("average, location-based, lifecycle, production",)
    mixed = report(entry(), direct)
    assert mixed.as_dict()["signals"] == [str(intensity("FR").signal), str(intensity("US-SRVC").signal)]
    assert len(report(entry(), direct, zone="PL").signals) == 1


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


def made(number, embodied, **beside):
    """An entry of 10 Wh and 5 g with embodied carbon, and 100 requests."""
    inference = {"stages": {"inference": LedgerCost(10.0, 5.0)}, "units": {"inference/requests": 100.0}}
    low, high = (0.5 * embodied, 2 * embodied) if embodied is not None else (0.0, 0.0)
    by_kind = None if embodied is None else {"inference": embodied}
    return replace(entry(number), **inference, beside=EntryBeside(by_kind, low, high, **beside))


class TestBeside:
    def test_embodied_carbon_and_sci_by_hand(self):
        found = report(made(0, 3.0), made(1, 1.0))
        beside = found.beside
        assert (beside.embodied_low_g, beside.embodied_g, beside.embodied_high_g) == (2.0, 4.0, 8.0)
        assert beside.embodied_by_stage == {"inference": 4.0} and beside.embodied_unknown == ()
        assert beside.sci == {"requests": (10.0 + 4.0) / 200}
        assert found.total.emissions_g == 10.0, "nothing is added silently"
        assert [row["embodied_g"] for row in found.rows()] == [3.0, 1.0]

    def test_an_entry_without_it_is_left_out_and_named(self):
        beside = report(made(0, 3.0), made(1, None)).beside
        assert (beside.embodied_g, beside.embodied_unknown) == (3.0, ("run 1",))
        assert beside.sci == {"requests": (5.0 + 3.0) / 100}, "over the entries that have both"

    def test_without_any_it_is_unknown_and_not_zero(self):
        figures = report(made(0, None)).as_dict()
        assert figures["embodied_g"] is None and figures["embodied_low_g"] is None
        assert figures["sci_g_per_1000"] == {}

    def test_market_based_emissions_are_beside_the_others(self):
        found = report(made(0, 1.0, market_g=2.0), made(1, 1.0))
        assert (found.beside.market_g, found.beside.market_unknown) == (2.0, ("run 1",))
        assert found.total.emissions_g == 10.0
        assert [row["market_g"] for row in found.rows()] == [2.0, None]

    def test_water_is_there_only_if_it_is_asked_for(self):
        entries = made(0, 1.0, water_l=(1.0, 0.5, 2.0)), made(1, 1.0)
        assert report(*entries).beside.water_l is None
        # The second by its zone and PUE: 10 Wh in France, at 3.67 litres per kilowatt-hour, and 0.3 for the site.
        value, low, high = report(*entries, water=True).beside.water_l
        assert value == pytest.approx(1.0 + 0.01 * (3.67 + 0.3), rel=1e-3)
        assert low < value < high

    def test_water_of_a_site_is_that_of_the_region_that_the_run_has_recorded(self):
        site = region("aws:ap-south-1")
        tags = {"carbon.region": site.name, "carbon.pue": f"{site.pue.value:g}"}
        of_region = replace(entry(wh=1000), tags={**entry().tags, **tags})
        for zone in (None, "DE"):  # it stays where it is on another grid, as its PUE does
            expected = water_factor(zone or "FR", site.pue.value, site.water_l_per_kwh).l_per_kwh
            assert report(of_region, zone=zone, water=True).beside.water_l[0] == pytest.approx(expected)

    def test_another_grid_changes_the_water_and_sci_but_not_the_embodied_carbon(self):
        entries = (made(0, 1.0, water_l=(1.0, 0.5, 2.0)),)
        here, there = (report(*entries, zone=zone, water=True) for zone in ("FR", "PL"))
        assert here.beside.embodied_g == there.beside.embodied_g == 1.0
        assert here.beside.water_l != there.beside.water_l
        assert there.beside.sci["requests"] == pytest.approx((there.total.emissions_g + 1.0) / 100)

    @given(st.lists(st.floats(0, 1e6), min_size=1, max_size=8))
    def test_the_stages_add_up_to_the_total_within_its_band(self, grams):
        beside = report(*(made(i, each) for i, each in enumerate(grams))).beside
        assert beside.embodied_g == pytest.approx(sum(grams))
        assert beside.embodied_low_g == pytest.approx(sum(grams) / 2)
        assert beside.embodied_high_g == pytest.approx(sum(grams) * 2)


@pytest.mark.parametrize("option", [False, True])
def test_a_report_shows_what_stands_beside_the_emissions(option):
    text = text_of(report(made(0, 3.0, market_g=2.0), made(1, None), water=option))
    assert "embodied   3.0 g CO2e (1.5 to 6.0), not in the emissions; unknown for 1 of 2 entries" in text
    assert "market     2.00 g CO2e, market-based, beside the emissions; unknown for 1 of 2 entries" in text
    assert "SCI per 1,000 requests of inference: 80.0 g CO2e, with the embodied carbon" in text
    assert ("water      " in text) is option


def test_runs_of_one_name_are_told_apart():
    one, two, three = (replace(entry(number), name=name) for number, name in enumerate(["a", "a", "b"]))
    ids = [replace(each, run_id=f"{number}{'0' * 31}") for number, each in enumerate((one, two, three))]
    found = report(*ids)
    assert [attempt.name for attempt in found.attempts] == ["a 00000000", "a 10000000", "b"]


@pytest.mark.parametrize("width", [60, 80])
def test_no_figure_and_no_kind_of_stage_is_cut_on_a_narrow_screen(width):
    """The bars go first; at 60 columns a stage was called `data_p…`."""
    costs = {"data_processing": LedgerCost(4.0, 0.166), "training": LedgerCost(154.0, 9.81)}
    made = dict.fromkeys(costs, 0.1234)
    runs = [
        replace(
            entry(number), stages=costs, beside=EntryBeside(made, 0.1, 0.4), name="a name in several words"
        )
        for number in range(2)
    ]
    screen = Screen(file=io.StringIO(), width=width)
    show(report(*runs), screen)
    text = screen.file.getvalue()
    assert "…" not in text and ("█" in text) == (width == 80)
    assert all(len(line) <= width for line in text.splitlines())
    for whole in ("data_processing", "emissions", "8.00 Wh", "19.6 g", "FINISHED", "9.98 g"):
        assert whole in text, whole


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


def test_an_attempt_has_its_date_parameters_metrics_and_band():
    one = replace(entry(3), start_ms=86_400_000, params={"depth": "4"}, metrics={"accuracy": 0.9})
    (attempt,) = report(one).attempts
    assert (attempt.run_id, attempt.start) == (one.run_id, "1970-01-02T00:00:00Z")
    assert (attempt.params, attempt.metrics) == ({"depth": "4"}, {"accuracy": 0.9})
    assert (attempt.low_wh, attempt.high_wh) == pytest.approx((one.low_wh, one.high_wh))
    assert (attempt.low_g, attempt.high_g) == pytest.approx((one.low_g, one.high_g))
    assert attempt.duration_s == 3600 and attempt.lower_bound is None


def test_the_windows_of_a_replica_are_one_attempt_with_the_band_of_their_sum():
    windows = [
        replace(
            entry(number), name="replica", start_ms=number, tags={**entry().tags, names.ENTRY: str(number)}
        )
        for number in range(3)
    ]
    killed = replace(windows[2], tags={**windows[2].tags, "carbon.status": "running"})
    (attempt,) = report(*windows[:2], killed).attempts
    assert (attempt.entries, attempt.energy_wh, attempt.duration_s) == (3, 30.0, 3 * 3600)
    assert attempt.high_wh == pytest.approx(33.0), "one device: its errors add up"
    assert attempt.lower_bound == "has not ended in order"

"""The same energy in every cloud region: by hand arithmetic, with bands, and never across unlike figures."""

from __future__ import annotations

import csv
import importlib
import json
import math
import re
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from carbon_otel import cli
from carbon_otel.carbon import grid_zones
from carbon_otel.carbon.intensity import MixedSignals, Signal
from carbon_otel.carbon.regions import region, regions
from carbon_otel.lifecycle.ledger import Ledger, NotFound
from carbon_otel.lifecycle.where import COLUMNS, distance_km, where_of
from tests.unit.test_report import entry


def run(number=0, wh=1000.0, zone="FR", pue="1", **tags):
    made = entry(number, wh=wh, grams=41.4, energy_band=0.1, zone=zone)
    named = {f"carbon.{name}": value for name, value in {"pue": pue, "pue_source": "given", **tags}.items()}
    return replace(made, tags={**made.tags, **named})


def where(*entries, **options):
    return where_of(Ledger("churn", entries or (run(),)), **options)


def in_region(found, name):
    return next(each for each in found.regions if each.region == name)


def test_golden_emissions_by_hand():
    """1 kWh at Google in Paris and Warsaw: 31 and 565 g/kWh (Electricity Maps 2025), PUE 1.09 of the fleet."""
    found = where(clouds=["gcp"])
    paris, warsaw = in_region(found, "gcp:europe-west9"), in_region(found, "gcp:europe-central2")
    assert paris.emissions_g == pytest.approx(31 * 1.09)
    assert warsaw.emissions_g == pytest.approx(565 * 1.09)
    assert warsaw.ratio == pytest.approx(565 * 1.09 / 31) and warsaw.difference == "more"
    assert paris.difference == "more", "the same grid, with the PUE of a data centre instead of 1"
    assert (paris.cfe, warsaw.cfe) == (0.96, 0.40)
    # Energy 10 %, grid 40 %, PUE of a fleet -5 % and +10 %, in quadrature.
    assert warsaw.high_g / warsaw.emissions_g - 1 == pytest.approx(math.sqrt(0.1**2 + 0.4**2 + 0.1**2))
    assert 1 - warsaw.low_g / warsaw.emissions_g == pytest.approx(math.sqrt(0.1**2 + 0.4**2 + 0.05**2))
    assert found.here.emissions_g == pytest.approx(31) and found.logged_g == pytest.approx(41.4)


def test_every_region_is_there_the_cleanest_first():
    found = where()
    assert {each.region for each in found.regions} == set(regions()) and not found.not_comparable
    grams = [each.emissions_g for each in found.regions]
    assert grams == sorted(grams) and all(g > 0 for g in grams)
    assert found.signal == "average, location-based, lifecycle, consumption" and found.year == 2025
    assert "ODbL" in found.source


def test_two_regions_differ_only_beyond_their_bands():
    for each in where(run(zone="DE", pue="1.2")).regions:
        # Germany 342 g/kWh: bands of 40 % and of the PUE, without that of the energy, which is the same.
        here_low, here_high = 342 * 1.2 * 0.6, 342 * 1.2 * 1.4
        if each.zone == "DE":
            continue
        if each.difference == "less":
            assert each.g_per_kwh * each.pue < here_low
        elif each.difference == "more":
            assert each.g_per_kwh * each.pue > here_high
        else:
            assert here_low * 0.4 < each.g_per_kwh * each.pue < here_high * 2.5


def test_in_the_same_zone_the_pue_alone_decides():
    found = where(run(zone="DE", pue="1.2"))
    assert in_region(found, "gcp:europe-west3").difference == "less", "1.09, at most 1.2 with its band"
    assert in_region(where(run(zone="DE", pue="1.12")), "gcp:europe-west3").difference == "within the bands"


def test_a_pue_that_nobody_gave_may_be_that_of_any_site():
    found = where(run(zone="FR", pue="1", pue_source="not given"))
    assert in_region(found, "gcp:europe-west9").difference == "within the bands"
    assert found.here.high_g > 1.54 * found.here.emissions_g


def test_the_region_of_the_run_gives_zone_and_coordinates():
    found = where(run(zone="US-SRVC", region="aws:us-east-1", pue="1.15"))
    assert found.here.name == "aws:us-east-1" and found.here.g_per_kwh == 418  # US-MIDA-PJM
    assert in_region(found, "aws:us-east-1").distance_km == 0
    frankfurt = in_region(found, "aws:eu-central-1")
    assert frankfurt.round_trip_ms == pytest.approx(2 * frankfurt.distance_km / 200)


def test_a_zone_that_was_given_goes_before_the_region():
    assert where(run(zone="DE", region="aws:us-east-1")).here.g_per_kwh == 342


def test_a_region_may_be_named_afterwards():
    found = where(run(zone="WORLD"), here="aws:eu-west-3")
    assert found.here.emissions_g == pytest.approx(31 * region("aws:eu-west-3").pue.value)
    assert in_region(found, "gcp:europe-west9").distance_km < 30


@pytest.mark.parametrize("zone", ["WORLD", "US-SRVC", "EU"])
def test_a_place_without_a_comparable_figure_is_said_and_not_guessed(zone):
    found = where(run(), run(1, zone=zone))
    assert found.here is None and zone in found.why_not_here
    assert {each.ratio for each in found.regions} == {None} == {each.difference for each in found.regions}
    assert all(each.emissions_g > 0 for each in found.regions)


def test_several_zones_are_weighed_by_energy_and_pue():
    found = where(run(wh=1000, zone="FR", pue="1.1"), run(1, wh=3000, zone="DE", pue="1.5"))
    assert found.here.emissions_g == pytest.approx(1 * 1.1 * 31 + 3 * 1.5 * 342)
    assert found.here.pue == pytest.approx((1.1 + 3 * 1.5) / 4)


def test_the_official_figure_of_a_country_is_in_that_country():
    assert where(run(zone="GB-GRID")).here.g_per_kwh == where(run(zone="GB")).here.g_per_kwh == 176


def test_runs_that_may_have_used_more_are_named():
    assert where(run()).lower_bounds == ()
    assert where(run(missing="gpu")).lower_bounds == ("run 0 lacks gpu",)


def test_unlike_intensities_are_not_compared(monkeypatch):
    table = grid_zones.electricity_maps()
    direct = {2025: replace(table["PL"][2025], signal=Signal(scope="direct"))}
    monkeypatch.setattr("carbon_otel.lifecycle.where.electricity_maps", lambda: {**table, "PL": direct})
    with pytest.raises(MixedSignals):
        where()


def test_a_region_without_a_figure_is_listed_with_the_reason(monkeypatch):
    table = {zone: years for zone, years in grid_zones.electricity_maps().items() if zone != "PL"}
    monkeypatch.setattr("carbon_otel.lifecycle.where.electricity_maps", lambda: table)
    found = where(clouds=["gcp"])
    assert found.not_comparable == ("gcp:europe-central2: Electricity Maps has no zone PL of 2025",)
    assert "gcp:europe-central2" not in {each.region for each in found.regions}


@pytest.mark.parametrize(
    ("options", "message"),
    [({"clouds": ["gpc"]}, "unknown cloud gpc; write some of aws"), ({"here": "aws:mars"}, "unknown region")],
)
def test_wrong_names_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        where(**options)


def test_runs_without_energy_are_refused():
    with pytest.raises(ValueError, match="no energy"):
        where(run(wh=0.0))


def test_great_circle_distances():
    assert distance_km((48.86, 2.35), (52.52, 13.40)) == pytest.approx(878, abs=3)  # Paris, Berlin
    assert distance_km((0, 179), (0, -179)) == pytest.approx(222.4, abs=0.1)
    assert distance_km((90, 0), (-90, 77)) == pytest.approx(math.pi * 6371)


class TestCommand:
    @pytest.fixture
    def call(self, monkeypatch):
        def read(client, name):
            if name == "unknown":
                raise NotFound("there is no such name")
            return Ledger("churn <b>", (run(),))

        command = importlib.import_module("carbon_otel.cli.where")
        monkeypatch.setattr(command, "client_of", lambda uri: (object(), "a store"))
        monkeypatch.setattr(command, "read", read)
        return lambda *arguments: CliRunner().invoke(cli.app, ["where", *arguments])

    def test_json_has_everything(self, call):
        found = json.loads(call("churn", "--format", "json", "--clouds", "gcp, aws").stdout)
        assert {each["region"].partition(":")[0] for each in found["regions"]} == {"gcp", "aws"}
        assert found["here"]["name"] == "FR"

    def test_csv_has_a_row_for_each_region(self, call):
        rows = list(csv.DictReader(call("churn", "--format", "csv").stdout.splitlines()))
        assert len(rows) == 239 and tuple(rows[0]) == COLUMNS

    def test_the_page_has_every_region(self, call):
        pytest.importorskip("jinja2", reason="Jinja2 comes with mlflow")
        html = call("churn", "--format", "html").stdout
        assert html.startswith("<!doctype html>") and "churn &lt;b&gt;" in html
        assert "gcp:europe-central2" in html and "219 more regions" in html

    @pytest.mark.parametrize("width", ["60", "80", "200"])
    def test_the_table_is_readable_at_any_width(self, call, monkeypatch, width):
        monkeypatch.setenv("COLUMNS", width)
        text = call("churn", "--clouds", "gcp,scaleway", "--all").stdout
        assert "gcp:europe-central2" in text and "more" in text and "cannot be told from here" in text
        assert "…" not in text, "a figure that is cut reads as another one"

    def test_the_cleanest_regions_come_first_and_the_others_on_request(self, call):
        text = call("churn").stdout
        assert "gcp:europe-west9" in text and "aws:ap-southeast-3" not in text
        assert re.search(r"[0-9]+ more regions emit more than these: --all", text)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("unknown",), "there is no such name"),
            (("churn", "--clouds", "gpc"), "unknown cloud gpc"),
            (("churn", "--here", "aws:mars"), "unknown region"),
        ],
    )
    def test_a_wrong_name_exits_with_2(self, call, arguments, message):
        result = call(*arguments)
        assert result.exit_code == 2 and message in result.stderr

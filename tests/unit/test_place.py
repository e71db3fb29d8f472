"""Zones within countries, cloud regions, and the order in which the place of a measurement is found."""

from __future__ import annotations

import builtins
import locale
import socket
import time
from types import SimpleNamespace

import pytest

from carbon_otel import config
from carbon_otel.carbon.grid import intensity
from carbon_otel.carbon.grid_zones import electricity_maps, life_cycle_estimate, official
from carbon_otel.carbon.intensity import MixedSignals, mean
from carbon_otel.carbon.regions import region, regions
from carbon_otel.carbon.site import factor_of
from carbon_otel.otel.resource import described

DIRECT_OUTPUT = ("average", "location", "direct", "production")
DIRECT_USE = ("average", "location", "direct", "consumption")
LIFECYCLE_USE = ("average", "location", "lifecycle", "consumption")
HOST = SimpleNamespace(processor="a processor", gpus=(), method="missing", missing=())


class TestZones:
    # Read in the publications: eGRID2023 rev2, ECCC 2026, NGA 2026, MEE no. 47 of 2025, CEA v21, DESNZ 2025.
    @pytest.mark.parametrize(
        ("zone", "g_per_kwh", "year", "signal", "losses"),
        [
            ("US-CAL-CISO", 208, 2025, LIFECYCLE_USE, "unknown"),
            ("US-SRVC", 270.5, 2023, DIRECT_OUTPUT, "excluded"),
            ("US-CA", 179.1, 2023, DIRECT_OUTPUT, "excluded"),
            ("CA-QC", 2.6, 2024, DIRECT_USE, "included"),
            ("AU-NSW", 600, 2026, DIRECT_OUTPUT, "excluded"),
            ("CN-BJ", 555.4, 2023, DIRECT_USE, "unknown"),
            ("CN-GRID-SOUTHWEST", 247.2, 2023, DIRECT_USE, "unknown"),
            ("IN-NO", 508, 2025, LIFECYCLE_USE, "unknown"),
            ("IN-GRID", 710, 2025, DIRECT_OUTPUT, "unknown"),
            ("GB-GRID", 177, 2025, DIRECT_USE, "excluded"),
            ("NZ-GRID", 78.7, 2025, DIRECT_OUTPUT, "unknown"),
        ],
    )
    def test_a_zone_within_a_country_has_its_own_figure_and_signal(
        self, zone, g_per_kwh, year, signal, losses
    ):
        found = intensity(zone)
        assert (found.zone, found.g_per_kwh, found.year) == (zone, g_per_kwh, year)
        assert (found.signal, found.losses) == (signal, losses)
        assert found.source and found.licence and (found.band.low, found.band.high) == (0.6, 1.4)
        assert intensity(zone.lower()) == found

    def test_every_zone_is_found_by_its_code(self):
        for zone, years in {**electricity_maps(), **official()}.items():
            if "-" in zone:  # Electricity Maps has whole countries too
                assert all(intensity(zone, year) is value for year, value in years.items())
            assert intensity(zone).zone == zone and 0 < intensity(zone).g_per_kwh < 2000

    def test_a_country_is_looked_up_in_the_country_table(self):
        assert intensity("FR").signal.basis == "production" != electricity_maps()["FR"][2025].signal.basis

    @pytest.mark.parametrize(
        ("zone", "near"),
        [
            ("DE-X", "zone='DE' for the whole of Germany"),
            ("US-CAL-CISX", "US-CAL-CISO"),
            ("ca-qq", "CA-QC"),
            ("GB-SCT", "zone='GB'"),
            ("Quebek", r"Quebec \(CA-QC\)"),
        ],
    )
    def test_a_zone_that_no_table_has_is_never_the_country(self, zone, near):
        with pytest.raises(ValueError, match=near) as error:
            intensity(zone)
        assert str(error.value).startswith(f"unknown zone {zone!r}")

    @pytest.mark.parametrize("zone", ["XX-YY", "-", "Atlantis", "US-"])
    def test_any_other_text_is_an_error(self, zone):
        with pytest.raises(ValueError, match="unknown zone"):
            intensity(zone)

    def test_a_year_that_a_zone_lacks_is_an_error(self):
        with pytest.raises(ValueError, match="CAISO, USA for 2019; the table has 2024, 2025"):
            intensity("US-CAL-CISO", 2019)

    def test_direct_and_lifecycle_figures_are_not_ranked(self):
        with pytest.raises(MixedSignals):
            sorted([intensity("US-SRVC"), intensity("FR")])
        with pytest.raises(MixedSignals):
            mean([intensity("US-CAL-CISO"), intensity("FR")])

    def test_the_life_cycle_of_a_subregion_is_its_direct_rate_and_its_upstream_emissions(self):
        found = life_cycle_estimate(intensity("US-SRVC"))
        assert found is not None and found.g_per_kwh == pytest.approx(332.1)
        assert (found.signal.scope, found.quality) == ("lifecycle", "estimated")
        assert life_cycle_estimate(intensity("CA-QC")) is None


class TestRegions:
    def test_all_regions_have_zones_in_the_tables(self):
        assert len(regions()) == 239
        for each in regions().values():
            assert intensity(each.zone).zone == each.zone
            assert 2025 in electricity_maps()[each.em_zone]
            assert intensity(each.country).zone == each.country
            assert each.confidence in ("high", "medium", "low")
            assert each.coordinates is None or all(map(abs, each.coordinates))

    @pytest.mark.parametrize("each", regions().values(), ids=lambda each: each.name)
    def test_every_published_figure_has_its_provenance(self, each):
        for figure in filter(None, (each.pue, each.wue, each.cfe)):
            assert figure.low <= figure.value <= figure.high
            assert figure.source and 2023 <= figure.year <= 2026 and figure.checked in ("read", "secondhand")
        if each.pue is not None:
            low, high = each.pue.pue_range
            assert 1 <= low <= each.pue.value <= high < 1.8
        assert each.cfe is None or 0 <= each.cfe.value <= 1

    @pytest.mark.parametrize(
        ("name", "zone", "pue", "extent"),
        [
            ("gcp:europe-west9", "FR", 1.09, "fleet"),
            ("aws:eu-north-1", "SE", 1.09, "region"),
            ("azure:swedencentral", "SE", 1.16, "region"),
            ("azure:northeurope", "IE", 1.18, "region"),
            ("azure:uksouth", "GB", 1.16, "geography"),
            ("azure:japaneast", "JP", 1.28, "geography"),
            ("scaleway:fr-par", "FR", 1.35, "zones of the region"),  # (1.45 + 1.16 + 1.44) / 3
            ("ovhcloud:eu-west-gra", "FR", 1.21, "region"),
        ],
    )
    def test_golden_regions(self, name, zone, pue, extent):
        found = region(name)
        assert (found.zone, found.pue.value, found.pue.extent) == (zone, pue, extent)
        assert region(f" {name.upper()} ") is found

    def test_an_unknown_figure_is_none_and_never_zero(self):
        assert region("oci:eu-paris-1").pue is None and region("aws:eu-north-1").cfe is None
        for each in regions().values():
            assert each.pue is None or each.pue.value >= 1
            assert each.wue is None or each.wue.value > 0

    @pytest.mark.parametrize("name", ["", "nowhere", "gcp", "gcp:", "aws:mars-1"])
    def test_an_unknown_region_is_refused(self, name):
        with pytest.raises(ValueError, match="write provider:region"):
            region(name)


class TestOrder:
    def test_a_zone_goes_before_a_region_and_a_region_before_the_world(self):
        assert factor_of(None, None, None).intensity.zone == "WORLD"
        assert factor_of(None, "gcp:europe-west9", None).intensity.zone == "FR"
        assert factor_of("DE", "gcp:europe-west9", None).intensity.zone == "DE"

    def test_the_pue_is_the_given_one_then_the_regions_then_one(self):
        of_region = factor_of(None, "aws:eu-north-1", None)
        assert (of_region.pue, of_region.region) == (1.09, "aws:eu-north-1")
        assert "AWS Cloud page, 2025, of the region" in of_region.pue_source
        assert factor_of("FR", "aws:eu-north-1", None).pue == 1.09
        given = factor_of(None, "aws:eu-north-1", 1.5)
        assert (given.pue, given.pue_source) == (1.5, "given")
        none = factor_of("FR", "oci:eu-paris-1", None)
        assert (none.pue, none.pue_source) == (1.0, "not given")

    def test_settings_have_a_region(self):
        settings = config.resolve({}, {"CARBON_OTEL_REGION": "AWS:eu-north-1"})
        assert (settings.region, settings.zone, settings.pue) == ("aws:eu-north-1", None, None)
        with pytest.raises(ValueError, match=r"^region='aws:mars-1': unknown region"):
            config.resolve({"region": "aws:mars-1"}, {})

    @pytest.mark.parametrize(
        ("written", "meant"),
        [
            ("europe-west9", "gcp:europe-west9"),
            ("gcp:europe-west-9", "gcp:europe-west9"),
            ("gcp:paris", "gcp:europe-west9"),
            ("paris", "aws:eu-west-3, azure:francecentral, gcp:europe-west9"),
            ("google:europe-west9", "gcp:europe-west9"),
            ("aws:eu-west3", "aws:eu-west-3"),
            ("azure:west europe", "azure:westeurope"),
        ],
    )
    def test_an_unknown_region_has_those_that_are_meant(self, written, meant):
        with pytest.raises(ValueError, match=f"; did you mean {meant}[,?]"):
            region(written)

    def test_nothing_is_meant_by_a_name_that_is_like_none(self):
        with pytest.raises(ValueError, match=r"^unknown region 'mars:x': write provider:region[^;]*$"):
            region("mars:x")

    def test_the_resource_of_the_process_has_the_place(self):
        attributes = described(HOST, factor_of(None, "aws:eu-north-1", None))
        assert attributes["carbon_otel.region"] == "aws:eu-north-1"
        assert attributes["carbon_otel.zone"] == "SE"
        assert "2025" in attributes["carbon_otel.pue_source"]

    @pytest.mark.parametrize("zone", [None, "FR", "US-CAL-CISO"])
    def test_no_place_is_guessed_from_address_locale_or_time_zone(self, zone, monkeypatch):
        def asked(*_, **__):
            raise AssertionError("the place was guessed")

        before = factor_of(zone, None, None)
        for module, name in (
            (socket, "socket"),
            (socket, "create_connection"),
            (socket, "gethostname"),
            (socket, "getaddrinfo"),
            (locale, "getlocale"),
            (locale, "setlocale"),
            (locale, "localeconv"),
            (time, "localtime"),
            (time, "tzset"),
        ):
            monkeypatch.setattr(module, name, asked)
        for name, value in (("TZ", "Asia/Tokyo"), ("LANG", "ja_JP.UTF-8"), ("LC_ALL", "ja_JP.UTF-8")):
            monkeypatch.setenv(name, value)
        opened = builtins.open
        monkeypatch.setattr(builtins, "open", lambda file, *a, **k: opened(_no_clock(file), *a, **k))
        assert factor_of(zone, None, None) == before


def _no_clock(file: object) -> object:
    assert "zoneinfo" not in str(file) and "localtime" not in str(file)
    return file

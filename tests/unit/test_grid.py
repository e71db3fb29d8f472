"""Carbon intensity by zone and year, and emissions from energy."""

from __future__ import annotations

import csv
from importlib.resources import files

import pytest

from carbon_otel.carbon import grid
from carbon_otel.carbon.tables import rows
from tests.fakes.grid import grid_of

TEXT = (files("carbon_otel.carbon") / "data/country_intensity.csv").read_text("utf-8")
ROWS = list(csv.DictReader(TEXT.splitlines()))


@pytest.mark.parametrize("zone", ["FR", "fr", " FR ", "FRA", "fra", "France", "FRANCE"])
def test_a_country_by_any_of_its_names(zone):
    france = grid.intensity(zone)
    assert (france.zone, france.name, france.kind) == ("FR", "France", "average")
    assert 20 < france.g_per_kwh < 100


@pytest.mark.parametrize(
    ("zone", "near"),
    [("Frankreich", "zone='FR'"), ("Frence", "France"), ("germany ", None), ("XX", "zone='FR'")],
)
def test_the_error_for_an_unknown_zone_suggests_zones(zone, near):
    if near is None:
        assert grid.intensity(zone).zone == "DE"
        return
    with pytest.raises(ValueError, match=near) as error:
        grid.intensity(zone)
    assert repr(zone) in str(error.value)


@pytest.mark.parametrize("zone", ["", "  ", "\x00", "🇫🇷", "x" * 1000])
def test_any_text_that_names_no_zone_is_a_value_error(zone):
    with pytest.raises(ValueError, match="ISO 3166"):
        grid.intensity(zone)


@pytest.mark.parametrize("zone", sorted({row["zone"] for row in ROWS}))
def test_every_row_has_its_provenance(zone):
    for row in (row for row in ROWS if row["zone"] == zone):
        found = grid.intensity(zone, int(row["year"]))
        assert found.name and found.source and found.licence and found.year == int(row["year"])
        assert 0 < found.g_per_kwh < 2000
        assert found.band.source and (found.band.low, found.band.high) == (
            (0, 2) if zone == grid.WORLD else (0.6, 1.4)
        )
        for other in (row["alpha3"], row["name"]):
            assert not other or grid.intensity(other, found.year) is found


def test_every_name_belongs_to_one_row():
    zones = {(row["zone"], row["alpha3"], row["name"]) for row in ROWS}
    names = [name.casefold() for row in zones for name in row if name]
    assert len(names) == len(set(names))
    assert len(ROWS) == len({(row["zone"], row["year"]) for row in ROWS}) == 1552


def test_the_intensity_of_a_year():
    # In 2022 many French reactors were under repair.
    assert grid.intensity("FR", 2022).g_per_kwh > 1.5 * grid.intensity("FR", 2024).g_per_kwh
    assert grid.intensity("FR", 2025) == grid.intensity("FR")
    with pytest.raises(ValueError, match=r"France for 1990; the table has 2018, 2019, .*, 2025"):
        grid.intensity("FR", 1990)


def test_all_years_are_of_one_edition():
    """Editions are revised as a whole: between two of them a year may differ by half."""
    editions = {row["source"] for row in ROWS if row["zone"] not in ("WORLD", "EU")}
    assert len(editions) == 1
    assert {row["year"] for row in ROWS} == {str(year) for year in range(2018, 2026)}
    assert len({row["zone"] for row in ROWS}) == 213


@pytest.mark.parametrize(
    ("zone", "year", "g_per_kwh"),
    [
        ("WORLD", 2025, 458.3),
        ("WORLD", 2024, 471.0),
        ("EU", 2025, 210.0),
        ("FR", 2025, 41.4),
        ("NA", 2024, 48.8),
    ],
)
def test_golden_values(zone, year, g_per_kwh):
    found = grid.intensity(None if zone == "WORLD" else zone, year)
    assert (found.zone, found.year, found.g_per_kwh) == (zone, year, g_per_kwh)
    assert found.signal == ("average", "location", "lifecycle", "production") and found.losses == "excluded"


@pytest.mark.parametrize(
    ("alias", "zone"),
    [
        ("UK", "GB"),
        ("england", "GB"),
        ("Great Britain", "GB"),
        ("USA", "US"),
        ("United States of America", "US"),
        ("Korea", "KR"),
        ("Deutschland", "DE"),
        ("Czech Republic", "CZ"),
        ("European Union", "EU"),
        ("World", "WORLD"),
        ("Österreich", "AT"),
    ],
)
def test_a_zone_by_a_name_in_common_use(alias, zone):
    assert grid.intensity(alias).zone == zone


def test_an_alias_is_no_name_of_another_country():
    codes = {row["zone"]: row for row in ROWS}
    names = {
        name.casefold(): row["zone"] for row in ROWS for name in (row["zone"], row["alpha3"], row["name"])
    }
    for row in rows("zone_aliases.csv"):
        assert row["zone"] in codes
        assert names.get(row["alias"].casefold()) is None, f"{row['alias']} needs no alias"


def test_no_zone_gives_the_world_average_with_a_wide_band():
    world = grid.intensity(None)
    assert (world.zone, world.band.low, world.band.high) == ("WORLD", 0, 2)


def test_emissions_are_energy_times_pue_times_intensity():
    us = grid.intensity("US")
    row = grid_of(383.5, us.band)
    assert grid.EmissionFactor(row, pue=1.14).emissions_g(0.001 * 3.6e6) == pytest.approx(0.43719, rel=1e-12)
    assert grid.EmissionFactor(row).emissions_g(0.0) == 0


def test_namibia_is_in_the_table():
    """Its code is NA, which many readers of CSV take for a missing value."""
    assert grid.intensity("NA").name == "Namibia"
    assert grid.intensity("NA") == grid.intensity("Namibia") == grid.intensity("NAM")


def test_a_suggestion_is_made_once():
    with pytest.raises(ValueError, match="did you mean Faroe Islands") as caught:
        grid.intensity("foo")
    assert str(caught.value).count("Faroe Islands") == 1

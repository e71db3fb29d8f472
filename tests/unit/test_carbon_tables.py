"""Every table of the package that has places: provenance row by row, and that no row was lost."""

from __future__ import annotations

import csv
import re
from importlib.resources import files
from pathlib import Path

import pytest

import carbon_otel
from carbon_otel.carbon.tables import rows

PACKAGE = Path(carbon_otel.__file__).parent
TABLES = sorted(PACKAGE.rglob("data/*.csv"))
PLACES = sorted(file.name for file in (PACKAGE / "carbon" / "data").glob("*.csv"))
FIGURES = ("g_co2e_per_kwh", "value", "l_per_kwh")


def read(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as text:
        return list(csv.DictReader(text))


@pytest.mark.parametrize("file", TABLES, ids=lambda file: file.name)
def test_every_row_is_whole(file):
    content = read(file)
    assert content
    for row in content:
        assert None not in row and None not in row.values(), row


@pytest.mark.parametrize("name", PLACES)
def test_every_row_of_a_place_has_its_year_source_and_licence(name):
    for row in rows(name):
        assert 2015 <= int(row["year"]) <= 2026, row
        assert row["source"].strip() and row["licence"].strip(), row


@pytest.mark.parametrize("name", PLACES)
def test_no_unknown_figure_is_zero_and_none_is_empty(name):
    for row in rows(name):
        for column in FIGURES:
            if column in row:
                assert float(row[column]) > 0, row
        if row.get("low"):
            assert float(row["low"]) <= float(row.get("value", 1)) <= float(row["high"]), row


@pytest.mark.parametrize("name", PLACES)
def test_a_code_that_reads_like_a_missing_value_is_kept(name):
    """`NA` is Namibia: a reader that takes it for a missing value leaves an empty zone."""
    for row in rows(name):
        for column in ("zone", "grid_zone", "em_zone", "country"):
            assert row.get(column, "-").strip(), row
            assert row.get(column) not in ("nan", "None", "<NA>"), row


@pytest.mark.parametrize("name", ["country_intensity.csv", "electricity_maps_zones_odbl.csv"])
def test_namibia_is_in_the_tables_of_the_whole_world(name):
    assert {row["name"] for row in rows(name) if row["zone"] == "NA"} == {"Namibia"}


def test_the_share_alike_table_is_alone_with_its_notice():
    """ODbL: no row of Electricity Maps is in another table, and the notice is beside it."""
    notice = (files("carbon_otel.carbon") / "data/electricity_maps_zones_odbl.txt").read_text("utf-8")
    assert "Open Database License 1.0" in notice and "Electricity Maps" in notice
    of_it = list(rows("electricity_maps_zones_odbl.csv"))
    assert {row["licence"] for row in of_it} == {"ODbL 1.0"} and len(of_it) == 704
    for name in set(PLACES) - {"electricity_maps_zones_odbl.csv"}:
        for row in rows(name):
            assert "ODbL" not in row["licence"] and "Electricity Maps" not in row["source"], row


def test_the_official_zones_have_no_residual_and_no_upstream_rows():
    """They count other things; an upstream row added to another would be counted twice."""
    for row in rows("grid_zones.csv"):
        assert row["scope"] in ("direct", "lifecycle") and row["basis"] in ("production", "consumption"), row
        assert row["losses"] in ("included", "excluded", "unknown"), row
        assert row["checked"] in ("read", "secondhand"), row


def test_the_page_lists_every_table_with_its_number_of_rows():
    page = (PACKAGE / "carbon" / "README.md").read_text("utf-8")
    listed: dict[str, int] = {}
    for name, count in re.findall(r"^\| `data/(\w+\.csv)`[^|]*\| ([\d,]+) \|", page, re.MULTILINE):
        listed[name] = listed.get(name, 0) + int(count.replace(",", ""))
    assert listed == {name: len(list(rows(name))) for name in PLACES}

"""`carbon-otel zones`: what can be written for a zone, and for a region."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from carbon_otel.carbon import grid, regions
from carbon_otel.carbon.tables import has_word
from carbon_otel.cli import app


def zones(*arguments: str):
    return CliRunner().invoke(app, ["zones", *arguments])


@pytest.mark.parametrize(
    ("word", "first"),
    [
        ("korea", "KR"),
        ("UK", "GB"),
        ("england", "GB"),
        ("deutsch", "DE"),
        ("eu", "EU"),
        ("us-cal-c", "US-CAL-CISO"),
    ],
)
def test_the_zone_that_is_meant_is_first(word, first):
    found = grid.find(word)
    assert found[0].zone == first
    assert all(grid.intensity(each.zone) == each for each in found), "each can be written for zone="


def test_every_zone_is_listed_once():
    codes = [each.zone for each in grid.find()]
    assert len(codes) == len(set(codes)) > 400
    assert {"FR", "WORLD", "EU", "US-CAMX", "US-CAL-CISO"} <= set(codes)


def test_a_year():
    assert {each.year for each in grid.find("france", 2020)} == {2020}


@pytest.mark.parametrize(
    ("word", "yes"), [("kor", True), ("SOUTH k", True), ("rea", False), ("(", False), ("", True)]
)
def test_a_word_begins_so(word, yes):
    assert has_word("South Korea", word) is yes


def test_a_town_has_its_cloud_regions():
    assert [each.name for each in regions.find("paris") if each.provider in ("aws", "gcp")] == [
        "aws:eu-west-3",
        "gcp:europe-west9",
    ]
    shown = zones("paris")
    assert shown.exit_code == 0 and "gcp:europe-west9" in shown.stdout and "1.09" in shown.stdout


def test_json_has_the_source():
    found = json.loads(zones("SE", "--json").stdout)
    sweden = found["zones"][0]
    assert sweden["zone"] == "SE" and sweden["low"] < sweden["g_per_kwh"] < sweden["high"]
    assert sweden["source"] and sweden["licence"] and sweden["signal"]["scope"] == "lifecycle"
    assert all(region["region"] for region in found["regions"])


def test_a_word_that_nothing_begins_with():
    done = zones("Germny")
    assert done.exit_code == 2 and "did you mean Germany" in done.stderr
    assert "`carbon-otel zones` lists all" in zones("qqqq").stderr
    assert "no zone is named" not in zones("france", "--year", "1900").stderr

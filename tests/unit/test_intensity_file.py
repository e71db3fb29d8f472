"""Intensities in a file of the user: its columns, and errors that name the line."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from carbon_otel.carbon.intensity import MixedSignals, Signal
from carbon_otel.intensity import provider
from carbon_otel.intensity.provider import BUILT_IN, find
from carbon_otel.intensity.providers.csv_file import CsvFile
from carbon_otel.intensity.service import Unavailable

START = datetime(2026, 3, 1, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Writes and reads a file; the present is a year after its hours."""
    monkeypatch.setattr("carbon_otel.intensity.providers.csv_file.wall", (START + 8766 * HOUR).timestamp)

    def write(*lines):
        path = tmp_path / "grid.csv"
        path.write_text("\n".join(lines) + "\n", "utf-8")
        return CsvFile(path)

    return write


def test_two_columns_are_enough(file):
    grid = file(
        "start,g_per_kwh", "2026-03-01T01:00Z,200", "2026-03-01T00:00Z,100.5", "2026-03-01T05:00+02:00,300"
    )
    values = grid.history("FR", START, START + 24 * HOUR)
    assert [(value.start, value.end, value.g_per_kwh) for value in values] == [
        (START, START + HOUR, 100.5),
        (START + HOUR, START + 2 * HOUR, 200),
        (START + 3 * HOUR, START + 4 * HOUR, 300),
    ]
    assert grid.signal == Signal() and values[0].source == "grid.csv" and values[0].quality == "measured"


@pytest.mark.parametrize(
    ("day", "hours", "offset_at"),
    [
        ("2026-03-29", 23, lambda hour: "+01:00" if hour < 2 else "+02:00"),
        ("2026-10-25", 25, lambda hour: "+02:00" if hour < 3 else "+01:00"),
    ],
)
def test_a_day_that_changes_to_or_from_summer_time_has_each_of_its_hours(file, day, hours, offset_at):
    """The day in Paris, in local time with its offset: one hour of it is missing, or there twice."""
    skipped = hours == 23
    rows = []
    for hour in range(hours):
        offset = offset_at(hour)
        local = hour + (skipped and hour >= 2) - (not skipped and hour >= 3)
        rows.append(f"{day}T{local:02}:00{offset},{100 + hour}")
    first = datetime.fromisoformat(f"{day}T00:00{offset_at(0)}")
    values = file("start,g_per_kwh", *rows).history("FR", first, first + 30 * HOUR)
    assert [value.start for value in values] == [first + number * HOUR for number in range(hours)]
    assert [value.g_per_kwh for value in values] == [100 + number for number in range(hours)]
    assert all(value.end - value.start == HOUR for value in values)


def test_every_column_is_read(file):
    grid = file(
        "zone,start,end,g_per_kwh,low,high,kind,method,scope,basis,quality,source,licence",
        "FR,2026-03-01T00:00Z,2026-03-01T00:30Z,20,15,30,average,location,direct,consumption,forecast,RTE,open",
        "DE,2026-03-01T00:00Z,2026-03-01T00:30Z,300,250,400,average,location,direct,consumption,measured,x,open",
    )
    (value,) = grid.history("FR", START, START + HOUR)
    assert value.signal == Signal(scope="direct", basis="consumption") == grid.signal
    assert (value.zone, value.end, value.quality) == ("FR", START + HOUR / 2, "forecast")
    assert (value.band.low, value.band.high) == (0.75, 1.5) and (value.source, value.licence) == (
        "RTE",
        "open",
    )
    with pytest.raises(ValueError, match="no zone 'GB', but DE, FR"):
        grid.history("GB", START, START + HOUR)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["time,g_per_kwh", "x,1"], "line 1: there is no column 'start'; the columns are time, g_per_kwh"),
        (["start;g_per_kwh", "2026-03-01T00:00Z;1"], "line 1: there is no column 'start'"),
        (["start,g_per_kwh,co2", "2026-03-01T00:00Z,100,1"], "line 1: unknown column 'co2'"),
        (
            ["start,g_per_kwh", "2026-03-01T00:00Z,100", "2026-03-01T01:00,100"],
            "line 3: start: .* no time zone",
        ),
        (["start,g_per_kwh", "01.03.2026,100"], "line 2: start: '01.03.2026' is not a time"),
        (["start,g_per_kwh", "2026-03-01T00:00Z,302,5"], "line 2: there are more values .* decimal point"),
        (
            ["start,g_per_kwh", '2026-03-01T00:00Z,"302,5"'],
            "line 2: g_per_kwh: '302,5' .* write a decimal point",
        ),
        (["start,g_per_kwh", "2026-03-01T00:00Z,"], "line 2: g_per_kwh: '' is not a number"),
        (["start,g_per_kwh", "2026-03-01T00:00Z,nan"], "line 2: g_per_kwh: 'nan' is not a number"),
        (["start,g_per_kwh", "2026-03-01T00:00Z"], "line 2: g_per_kwh: '' is not a number"),
        (["start,g_per_kwh", "", "2026-03-01T00:00Z,0"], "line 3: 0 g/kWh is not between 5 and 1500"),
        (["start,g_per_kwh,kind", "2026-03-01T00:00Z,100,mean"], "line 2: kind: 'mean' is none of average"),
        (
            ["start,g_per_kwh,low,high", "2026-03-01T00:00Z,100,110,120"],
            "line 2: 100 g/kWh is not between low 110",
        ),
        (["start,end,g_per_kwh", "2026-03-01T01:00Z,2026-03-01T00:00Z,100"], "line 2: .*interval"),
        (["start,g_per_kwh"], "has no rows"),
        ([], "line 1: there is no column 'start'; the columns are none"),
    ],
)
def test_an_error_names_the_line(file, lines, reason):
    with pytest.raises(ValueError, match=reason):
        file(*lines)


def test_a_value_of_any_size_is_right_with_its_band(file):
    grid = file("start,g_per_kwh,low,high", "2026-03-01T00:00Z,0,0,0", "2026-03-01T01:00Z,2,1,3")
    assert [value.g_per_kwh for value in grid.history("IS", START, START + 2 * HOUR)] == [0, 2]


def test_what_is_not_over_is_a_forecast(file, monkeypatch):
    monkeypatch.setattr("carbon_otel.intensity.providers.csv_file.wall", (START + HOUR).timestamp)
    grid = file("start,g_per_kwh", "2026-03-01T00:00Z,100", "2026-03-01T01:00Z,100")
    values = grid.history("FR", START, START + 2 * HOUR)
    assert [(value.quality, value.band.high) for value in values] == [("measured", 1.1), ("forecast", 1.2)]


def test_two_signals_in_one_file_are_refused(file):
    with pytest.raises(MixedSignals):
        file("start,g_per_kwh,scope", "2026-03-01T00:00Z,100,direct", "2026-03-01T01:00Z,100,lifecycle")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.csv cannot be read: No such file"):
        find(str(tmp_path / "none.csv"), tmp_path)
    (tmp_path / "latin.csv").write_bytes(b"start,g_per_kwh,source\n2026-03-01T00:00Z,100,\xe9\n")
    with pytest.raises(ValueError, match="it is not UTF-8"):
        find(str(tmp_path / "latin.csv"), tmp_path)


def test_the_present_and_the_future_of_a_file(file, monkeypatch):
    grid = file("start,g_per_kwh", *(f"2026-03-01T{hour:02}:00Z,{100 + hour}" for hour in range(24)))
    at = START + 5.5 * HOUR
    monkeypatch.setattr("carbon_otel.intensity.providers.csv_file.wall", at.timestamp)
    assert grid.latest("FR").g_per_kwh == 105
    assert [value.g_per_kwh for value in grid.forecast("FR", 2 * HOUR)] == [105, 106, 107]
    monkeypatch.setattr("carbon_otel.intensity.providers.csv_file.wall", (START + 30 * HOUR).timestamp)
    with pytest.raises(Unavailable, match="no value for FR now"):
        grid.latest("FR")


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_provider_is_found_by_its_name(name, tmp_path):
    found = find(name, tmp_path)
    assert found.name == name and found.service.base.startswith("https://")
    assert found.service.source and found.service.licence


def test_a_provider_of_another_package_is_found_by_its_entry_point(tmp_path, monkeypatch):
    class Point:
        name = "mine"

        def load(self):
            return lambda cache: ("made with", cache)

    monkeypatch.setattr(
        provider, "entry_points", lambda group: [Point()] * (group == "carbon_otel_intensity")
    )
    assert find("mine", tmp_path) == ("made with", tmp_path)
    with pytest.raises(ValueError, match=r"no provider 'other'.*uk, .*eia, mine"):
        find("other", tmp_path)

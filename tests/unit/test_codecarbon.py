"""The arguments, the places and the file of CodeCarbon's trackers."""

from __future__ import annotations

import csv
import inspect
import math
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import carbon_otel
from carbon_otel.carbon import grid
from carbon_otel.carbon.grid import EmissionFactor, intensity
from carbon_otel.cli.formats import codecarbon as report_format
from carbon_otel.compat.codecarbon import (
    EmissionsData,
    EmissionsTracker,
    OfflineEmissionsTracker,
    OutputMethod,
    track_emissions,
)
from carbon_otel.compat.codecarbon import emissions_csv as file
from carbon_otel.compat.codecarbon.arguments import ARGUMENTS, Given
from carbon_otel.compat.codecarbon.place import at, place_of
from carbon_otel.compat.codecarbon_columns import COLUMNS, TASK_COLUMNS
from carbon_otel.footprint import NOT_MEASURED, footprint_of
from carbon_otel.records import StageRecord
from tests.docs.pages import PAGES, table
from tests.fakes.powercap import server
from tests.unit.test_footprint import part, record

# The first line of a file of CodeCarbon 3.3.2.
HEADER = (
    "timestamp,project_name,run_id,experiment_id,duration,emissions,emissions_rate,cpu_power,gpu_power,ram_power,"
    "cpu_energy,gpu_energy,ram_energy,energy_consumed,water_consumed,country_name,country_iso_code,region,"
    "cloud_provider,cloud_region,os,python_version,codecarbon_version,cpu_count,cpu_model,gpu_count,gpu_model,"
    "longitude,latitude,ram_total_size,tracking_mode,cpu_utilization_percent,gpu_utilization_percent,"
    "ram_utilization_percent,ram_used_gb,on_cloud,pue,wue"
)
# The parameters of its trackers, in their order; after the bar, those that are by name only.
PARAMETERS = (
    "project_name measure_power_secs api_call_interval api_endpoint api_key output_dir output_file output_methods "
    "save_to_file save_to_api save_to_logger logging_logger save_to_prometheus save_to_logfire prometheus_url "
    "output_handlers gpu_ids emissions_endpoint experiment_id experiment_name electricitymaps_api_token "
    "co2_signal_api_token tracking_mode log_level on_csv_write logger_preamble force_cpu_power force_ram_power "
    "pue wue force_carbon_intensity_g_co2e_kwh force_mode_cpu_load allow_multiple_runs rapl_include_dram "
    "rapl_prefer_psys metadata | country_iso_code region cloud_provider cloud_region country_2letter_iso_code"
)


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CARBON_OTEL_POWERCAP_ROOT", str(server(tmp_path / "sys").root))


def given(*positional, **named):
    return Given(positional, named)


# The columns.


def test_the_columns_are_those_of_codecarbon():
    assert ",".join(COLUMNS) == HEADER
    assert report_format.COLUMNS is COLUMNS
    assert TASK_COLUMNS[:2] == ("task_name", "timestamp") and len(TASK_COLUMNS) == len(COLUMNS) - 2


def data(run_id: str = "a", **columns) -> EmissionsData:
    texts = dict.fromkeys(COLUMNS, "")
    return EmissionsData(**{**texts, "run_id": run_id, **columns})


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as opened:
        return list(csv.DictReader(opened))


def runs(path: Path) -> list[tuple[str, str]]:
    return [(row["run_id"], row["duration"]) for row in rows(path)]


def test_append_adds_a_row_and_update_replaces_that_of_the_run(tmp_path):
    path = tmp_path / "emissions.csv"
    for run_id, duration in (("a", 1), ("b", 2), ("a", 3)):
        file.write(path, data(run_id, duration=duration), update=True)
    assert runs(path) == [("b", "2"), ("a", "3")]
    file.write(path, data("b", duration=4), update=False)
    assert runs(path) == [("b", "2"), ("a", "3"), ("b", "4")]
    file.write(path, data("b", duration=5), update=True)
    assert runs(path)[2:] == [("b", "4"), ("b", "5")], "which of the two rows is meant is not known"


def test_texts_with_commas_quotes_and_lines_stay_one_row(tmp_path):
    path, name = tmp_path / "emissions.csv", 'a, "b"\nc'
    file.write(path, data("a", project_name=name), update=False)
    file.write(path, data("b", project_name=name), update=False)
    file.write(path, data("b", project_name="new"), update=True)
    assert [row["project_name"] for row in rows(path)] == [name, "new"]


def test_a_file_with_its_columns_in_another_order_keeps_it(tmp_path):
    path = tmp_path / "emissions.csv"
    path.write_text(",".join(reversed(COLUMNS)) + "\n")
    file.write(path, data("a", duration=1), update=False)
    file.write(path, data("a", duration=2), update=True)
    assert path.read_text().startswith("wue,pue,") and runs(path) == [("a", "2")]


def test_a_file_with_other_columns_is_kept_beside_the_new_one(tmp_path):
    path = tmp_path / "emissions.csv"
    for number in range(2):
        path.write_text(f"timestamp,emissions\n{number},0.5\n")
        file.write(path, data("a", duration=number), update=False)
    assert runs(path) == [("a", "1")]
    assert (tmp_path / "emissions.csv.bak").read_text().endswith("0,0.5\n")
    assert (tmp_path / "emissions.csv_0.bak").read_text().endswith("1,0.5\n")


def test_an_empty_file_gets_the_columns(tmp_path):
    path = tmp_path / "emissions.csv"
    path.touch()
    file.write(path, data(), update=False)
    assert len(rows(path)) == 1 and not list(tmp_path.glob("*.bak"))


def test_a_last_line_without_its_end_is_not_continued(tmp_path):
    path = tmp_path / "emissions.csv"
    file.write(path, data("a"), update=False)
    path.write_text(path.read_text().rstrip("\n"))
    file.write(path, data("b"), update=False)
    assert [row["run_id"] for row in rows(path)] == ["a", "b"]


def test_threads_that_make_the_file_at_once_write_one_header(tmp_path):
    path = tmp_path / "emissions.csv"
    barrier = threading.Barrier(8)

    def write(number: int) -> None:
        barrier.wait()
        file.write(path, data(str(number)), update=False)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(row["run_id"] for row in rows(path)) == list("01234567")
    assert not list(tmp_path.glob(".emissions*"))


def test_a_file_that_cannot_be_written_costs_no_figure(tmp_path, caplog):
    (tmp_path / "emissions.csv").mkdir()
    with EmissionsTracker() as tracker:
        pass
    assert isinstance(tracker.final_emissions, float)
    assert [record for record in caplog.records if "writing emissions.csv failed" in record.message]


# The arguments.


@pytest.mark.parametrize("tracker", [EmissionsTracker, OfflineEmissionsTracker])
def test_the_signature_is_that_of_codecarbon(tracker):
    parameters = inspect.signature(tracker).parameters.values()
    by_position = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    by_name = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    assert f"{' '.join(by_position)} | {' '.join(by_name)}" == PARAMETERS


def test_the_page_has_a_row_for_each_argument():
    """Arguments of which the same is to be said share a row."""
    by_text: dict[str, list[str]] = {}
    for argument in ARGUMENTS:
        by_text.setdefault(argument.here, []).append(f"`{argument.name}`")
    made = [[", ".join(names), here] for here, names in by_text.items()]
    lines = "\n".join(f"| {names} | {here} |" for names, here in made)
    written = table(PAGES["carbon_otel/compat/README.md"].section("Its arguments"))
    assert written == made, f"write:\n{lines}"


def test_arguments_by_position():
    tracker = EmissionsTracker("churn", 7)
    assert (tracker._project, tracker._settings["interval_s"]) == ("churn", 7)
    with pytest.raises(TypeError, match="project_name is given by position and by name"):
        EmissionsTracker("churn", project_name="churn")
    with pytest.raises(TypeError, match="37 arguments by position; there are 36"):
        EmissionsTracker(*[None] * 37)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tracking_mode": "rack"}, "tracking_mode='rack': write 'machine' or 'process'"),
        ({"on_csv_write": "replace"}, "on_csv_write='replace': write 'append' or 'update'"),
        ({"measure_power_secs": "often"}, "measure_power_secs='often': write a number of 0 or more"),
        ({"pue": -1}, "pue=-1: write a number"),
        ({"pue": 0.5}, "pue=0.5: write a number from 1.0"),
        ({"output_dir": "not/there"}, "output_dir='not/there': there is no such folder"),
    ],
)
def test_a_wrong_value_raises_at_once(arguments, message):
    with pytest.raises((ValueError, OSError), match=re.escape(message)):
        EmissionsTracker(**arguments)


@pytest.mark.parametrize(("seconds", "interval_s"), [(0, 0.01), (15, 15), (600, 30)])
def test_the_interval_is_one_that_the_meter_takes(seconds, interval_s):
    assert EmissionsTracker(measure_power_secs=seconds)._settings["interval_s"] == interval_s


def test_a_value_comes_from_the_call_the_environment_the_folder_or_the_home(monkeypatch, tmp_path):
    (tmp_path / "home" / ".codecarbon.config").write_text(
        "[codecarbon]\nproject_name = home\nexperiment_id = home\npue = 2\nwue = 3\nlog_level = info\n"
    )
    (tmp_path / ".codecarbon.config").write_text("[codecarbon]\nproject_name = folder\npue = 4\nwue = 5\n")
    monkeypatch.setenv("CODECARBON_PROJECT_NAME", "environment")
    monkeypatch.setenv("CODECARBON_PUE", "6")
    values = given(project_name="call")
    assert values.text("project_name") == "call"
    assert (values.number("pue"), values.number("wue"), values.text("experiment_id")) == (6, 5, "home")


def test_a_broken_configuration_file_is_said(tmp_path, caplog):
    (tmp_path / ".codecarbon.config").write_text("no section\n")
    assert given().text("project_name", "codecarbon") == "codecarbon"
    assert ".codecarbon.config is not read" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "writes"),
    [
        ({}, True),
        ({"save_to_file": False}, False),
        ({"output_methods": [OutputMethod.CSV, OutputMethod.API]}, True),
        ({"output_methods": [OutputMethod.API], "save_to_file": True}, False),
        ({"output_methods": "api, csv"}, True),
        ({"output_methods": []}, False),
    ],
)
def test_whether_the_file_is_written(arguments, writes):
    assert given(**arguments).writes_file is writes


def test_a_variable_says_that_no_file_is_written(monkeypatch):
    monkeypatch.setenv("CODECARBON_SAVE_TO_FILE", "False")
    assert not given().writes_file


def test_what_has_no_effect_is_said_once_and_false_is_not(caplog):
    for _ in range(2):
        with EmissionsTracker(save_to_file=False, save_to_api=False, gpu_ids=[0], colour="green"):
            pass
    (said,) = [record.message for record in caplog.records if "no effect" in record.message]
    assert "carbon_otel: gpu_ids, colour;" in said


def test_a_value_that_cannot_be_compared_costs_nothing():
    np = pytest.importorskip("numpy")
    with EmissionsTracker(save_to_file=False, gpu_ids=np.array([0, 1])) as tracker:
        pass
    assert tracker.final_emissions is not None


# The places.

FRANCE, CANADA, WORLD = grid.intensity("FR"), grid.intensity("CA"), grid.intensity(None)


@pytest.mark.parametrize(
    ("arguments", "zone", "country"),
    [
        ({}, None, None),
        ({"country_iso_code": "FRA"}, "FR", "FR"),
        ({"country_2letter_iso_code": "fr"}, "FR", "FR"),
        ({"country_iso_code": "CAN", "region": "Quebec"}, "CA-QC", "CA"),
        ({"country_iso_code": "CAN", "region": "CA-QC"}, "CA-QC", "CA"),
        ({"country_iso_code": "CAN", "region": "yukon"}, "CA", "CA"),
        ({"cloud_provider": "aws", "cloud_region": "eu-north-1"}, "SE", "SE"),
        ({"cloud_provider": "aws", "cloud_region": "moon", "country_iso_code": "FRA"}, "FR", "FR"),
        ({"cloud_provider": "aws", "cloud_region": "moon"}, None, None),
        ({"country_iso_code": "Atlantis"}, "WORLD", None),
        ({"force_carbon_intensity_g_co2e_kwh": 12, "country_iso_code": "FRA"}, "FR", "FR"),
    ],
)
def test_the_place_of_a_tracker(arguments, zone, country):
    place = place_of(given(**arguments))
    assert (place.intensity and place.intensity.zone, place.zone) == (zone, country)


def test_the_value_of_the_user_is_the_intensity():
    place = place_of(given(force_carbon_intensity_g_co2e_kwh=12, country_iso_code="FRA"))
    assert place.intensity.g_per_kwh == 12 and "force_carbon" in place.intensity.source


def test_an_unknown_country_is_said_and_has_the_band_of_the_world(caplog):
    place = place_of(given(country_iso_code="Frnace"))
    assert place.intensity == WORLD
    assert "did you mean France" in caplog.text and "world average" in caplog.text


@pytest.mark.parametrize(("zone", "pue"), [("PL", 1.0), ("PL", 1.3), (None, 1.1), ("FR", 1.0)])
def test_emissions_of_another_place_are_those_that_the_measurement_would_have_had(zone, pue):
    here = footprint_of(recorded(), EmissionFactor(FRANCE))
    there = EmissionFactor(intensity(zone), pue)
    grams = here.emissions_g if there.intensity == FRANCE else there.emissions_g(here.energy_j)
    wanted = footprint_of(recorded()._replace(inclusive_g=grams), there)
    moved = at(here, there.intensity, pue)
    for name in ("energy_j", "emissions_g", "low_g", "high_g", "low_j", "high_j", "pue", "intensity"):
        value = getattr(wanted, name)
        assert getattr(moved, name) == (pytest.approx(value) if isinstance(value, float) else value), name


def test_a_place_that_is_not_given_changes_nothing():
    here = footprint_of(recorded(), EmissionFactor(FRANCE, 1.2))
    assert at(here, None, None) is here
    assert at(NOT_MEASURED, CANADA, 1.5) is NOT_MEASURED


def recorded() -> StageRecord:
    """The record of a stage with two devices."""
    return record(part("a", "cpu", 30, 0.9, 1.1), part("b", "memory", 6, 0.4, 2.5), grams=0.5)


# The trackers.


def test_calls_in_the_wrong_order_say_so_and_do_nothing(caplog):
    tracker = EmissionsTracker(save_to_file=False)
    assert tracker.stop() is None and tracker.flush() is None and tracker.stop_task() is None
    tracker.start_task("a")
    tracker.start_task("b")
    assert list(tracker._tasks) == ["a"]
    tracker.start()
    tracker.start()
    tracker.stop()
    assert tracker._tasks["a"].emissions_data is not None, "the tracker's end is the end of its task"
    said = caplog.text
    for message in ("never started", "before flush", "there is no task", "already: a", "started already"):
        assert message in said


@pytest.mark.parametrize("stop_with", ["round", "", None])
def test_tasks_of_one_name_are_ended_by_that_name(stop_with):
    tracker = EmissionsTracker(save_to_file=False)
    ended = []
    for _ in range(3):
        tracker.start_task("round")
        ended.append(tracker.stop_task(stop_with))
    assert None not in ended and tracker.stop_task("round") is None
    assert [task.emissions_data for task in tracker._tasks.values()] == ended


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("call", ["stop", "flush", "start", "start_task", "stop_task", "leave"])
def test_a_tracker_that_a_fork_has_copied_writes_nothing(call, caplog):
    """As a child that leaves the block of its parent by an exception or `sys.exit()`."""
    tracker = EmissionsTracker(country_iso_code="FRA", on_csv_write="append")
    with tracker:
        tracker.start_task("a")
        child = os.fork()
        if child == 0:
            answer = tracker.__exit__(None, None, None) if call == "leave" else getattr(tracker, call)()
            inherited = math.isnan(tracker.footprint.energy_j) and "does nothing in the child" in caplog.text
            os._exit(0 if answer is None and inherited and not Path("emissions.csv").exists() else 1)
        assert os.waitpid(child, 0)[1] == 0
    assert len(rows(Path("emissions.csv"))) == 1 and not math.isnan(tracker.final_emissions)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_child_measures_by_a_tracker_of_its_own_also_one_that_its_parent_has_made_or_stopped():
    made, stopped = EmissionsTracker(country_iso_code="FRA"), EmissionsTracker(country_iso_code="FRA")
    with stopped:
        pass
    child = os.fork()
    if child == 0:
        for tracker in (made, stopped, EmissionsTracker(country_iso_code="FRA")):
            tracker.start()
        os._exit(sum(math.isnan(tracker.stop()) for tracker in (made, stopped)))
    assert os.waitpid(child, 0)[1] == 0
    assert len(rows(Path("emissions.csv"))) == 3


def test_a_process_that_is_not_to_be_measured_has_nan(monkeypatch):
    monkeypatch.setenv("CARBON_OTEL_DISABLED", "true")
    with EmissionsTracker() as tracker:
        pass
    assert math.isnan(tracker.final_emissions) and math.isnan(tracker.final_emissions_data.cpu_energy)
    (row,) = rows(Path("emissions.csv"))
    assert row["emissions"] == row["energy_consumed"] == "nan"


def test_a_tracker_that_ends_after_the_measurement_has_its_figures():
    tracker = EmissionsTracker(country_iso_code="FRA")
    tracker.start()
    carbon_otel.uninstrument()
    assert not math.isnan(tracker.stop())
    assert rows(Path("emissions.csv"))[0]["cpu_model"]


def test_a_fault_of_ours_does_not_reach_the_program(monkeypatch, caplog):
    def broken(*_: object, **__: object) -> None:
        raise LookupError("broken")

    for name in ("figures.hardware", "emissions_csv.write", "tracked.Window"):
        monkeypatch.setattr(f"carbon_otel.compat.codecarbon.{name}", broken)
    with EmissionsTracker() as tracker:
        pass
    assert math.isnan(tracker.final_emissions)
    assert caplog.text.count("LookupError('broken'); the program continues") == 3


def test_the_decorator_keeps_name_result_and_arguments():
    @track_emissions
    def add(a: int, b: int = 2) -> int:
        """Add."""
        return a + b

    assert (add.__name__, add.__doc__, add(1), add(1, b=5)) == ("add", "Add.", 3, 6)
    assert len(rows(Path("emissions.csv"))) == 2


def test_the_decorator_offline_needs_a_place():
    with pytest.raises(ValueError, match="country_iso_code='FRA'"):
        track_emissions(offline=True)

    @track_emissions(offline=True, country_iso_code="FRA")
    def nothing() -> None: ...

    nothing()
    assert rows(Path("emissions.csv"))[0]["country_iso_code"] == "FRA"


def test_a_generator_under_the_decorator_is_said(caplog):
    @track_emissions(save_to_file=False)
    def numbers():
        yield 1

    assert list(numbers()) == [1]
    assert "tracks the call of the generator" in caplog.text


def test_a_wrong_log_level_is_said_and_changes_nothing(caplog):
    EmissionsTracker(log_level="loud")
    assert "log_level='loud' is no level" in caplog.text


def test_importing_carbon_otel_does_not_import_the_trackers():
    program = "import sys, carbon_otel; print([name for name in sys.modules if 'carbon_otel.compat' in name])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""CodeCarbon's public examples, written anew with the same calls, over a package that draws 50 W.

Each compares the kilowatt-hours of the trackers with those of the process and of its stages.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.neural_network import MLPClassifier

import carbon_otel
from carbon_otel.compat.codecarbon import (
    EmissionsTracker,
    OfflineEmissionsTracker,
    OutputMethod,
    track_emissions,
)
from carbon_otel.units import J_PER_KWH
from tests.fakes.drawing import Drawing
from tests.fakes.powercap import server

PROGRAMS = Path(__file__).with_name("programs")
ROOT = Path(__file__).parents[2]
PRESENT: dict[str, Drawing] = {}  # the package of the present test
X, Y = load_digits(return_X_y=True)
X, Y = X[:300] / 16, Y[:300]


@pytest.fixture(autouse=True)
def fed(tmp_path, monkeypatch):
    """A package of 50 W, in a working folder of the test."""
    with Drawing(server(tmp_path / "sys"), zones=1, watts=50) as drawing:
        monkeypatch.setenv("CARBON_OTEL_POWERCAP_ROOT", str(drawing.root))
        monkeypatch.setenv("CARBON_OTEL_ZONE", "FR")
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.chdir(tmp_path)
        monkeypatch.setitem(PRESENT, "package", drawing)
        yield drawing
        carbon_otel.uninstrument()


def work() -> None:
    """Takes until the counter has advanced by 3 J, so that no tracker ends without energy."""
    package = PRESENT["package"]
    begin_j = package.joules
    while package.joules < begin_j + 3:
        time.sleep(0.01)


def rows(file: str = "emissions.csv") -> list[dict[str, str]]:
    with Path(file).open(newline="") as opened:
        return list(csv.DictReader(opened))


def same_energy(*kwh: float, of: Sequence[EmissionsTracker] = (), above_zero: bool = True) -> None:
    """The sum of trackers that ran one after the other is that of all stages, and of what was between their edges.

    The parts that belong to stages are the same exactly.
    """
    process = carbon_otel.footprint()
    outside_j = process.stages["unattributed"].energy_j
    joules = sum(kwh) * J_PER_KWH
    assert all(each > 0 for each in kwh) or not above_zero
    assert (process.energy_j - outside_j) * (1 - 1e-9) <= joules <= process.energy_j * (1 + 1e-9)
    for kind in process.stages.keys() - {"unattributed"} if of else ():
        of_kind_j = sum(tracker.footprint.stages[kind].energy_j for tracker in of)
        assert of_kind_j == pytest.approx(process.stages[kind].energy_j, rel=1e-9, abs=1e-9)


def at_the_same_time(*kwh: float) -> None:
    """Trackers that overlap: each has all that the process used meanwhile, and together they have all stages."""
    process = carbon_otel.footprint()
    outside_j = process.stages["unattributed"].energy_j
    assert all(0 < each * J_PER_KWH <= process.energy_j * (1 + 1e-9) for each in kwh)
    assert sum(kwh) * J_PER_KWH >= (process.energy_j - outside_j) * (1 - 1e-9)


def energy_of(tracker: EmissionsTracker) -> float:
    return tracker.final_emissions_data.energy_consumed


def test_full_cpu():
    tracker = EmissionsTracker(measure_power_secs=100)
    try:
        tracker.start()
        work()
    finally:
        emissions: float = tracker.stop()
    assert f"{emissions}"
    assert emissions == tracker.final_emissions == tracker.footprint.emissions_kg
    assert tracker.footprint.low_g < emissions * 1000 < tracker.footprint.high_g
    same_energy(energy_of(tracker), of=[tracker])


def test_mnist_sklearn():
    tracker = EmissionsTracker()
    tracker.start()
    MLPClassifier((16,), random_state=1).fit(X, Y)
    work()
    assert tracker.stop() > 0
    assert carbon_otel.footprint().stages["training"].energy_j > 0, "the fit is a stage in the tracker's"
    same_energy(energy_of(tracker), of=[tracker])


def test_mnist_context_manager():
    with EmissionsTracker(project_name="mnist") as tracker:
        RandomForestClassifier(5).fit(X, Y)
        work()
    assert tracker.final_emissions > 0
    same_energy(energy_of(tracker), of=[tracker])


def test_mnist_decorator():
    @track_emissions(project_name="mnist")
    def train() -> float:
        work()
        return RandomForestClassifier(5).fit(X, Y).score(X, Y)

    assert train() > 0.5
    (row,) = rows()
    assert row["project_name"] == "mnist"
    same_energy(float(row["energy_consumed"]))


def test_mnist_callback():
    class Callback:
        def __init__(self, tracker: EmissionsTracker) -> None:
            self.tracker = tracker

        def on_epoch_end(self) -> None:
            self.tracker.flush()

    tracker = EmissionsTracker()
    tracker.start()
    callback = Callback(tracker)
    for _ in range(3):
        work()
        callback.on_epoch_end()
    tracker.stop()
    energies = [float(row["energy_consumed"]) for row in rows()]
    assert energies == sorted(energies) and len(energies) == 4
    same_energy(energies[-1])


@pytest.mark.parametrize("search", [GridSearchCV, RandomizedSearchCV])
def test_mnist_grid_search_and_random_search(search):
    tracker = EmissionsTracker(project_name="mnist_search")
    tracker.start()
    found = search(RandomForestClassifier(3), {"max_depth": [2, 3]}, cv=2, **wanted(search)).fit(X, Y)
    work()
    tracker.stop()
    assert found.best_params_
    same_energy(energy_of(tracker), of=[tracker])


def wanted(search: type) -> dict[str, int]:
    return {"n_iter": 2} if search is RandomizedSearchCV else {}


def test_task_inference():
    tracker = EmissionsTracker(project_name="bert_inference", measure_power_secs=10)
    tracker.start()
    tracker.start_task("load dataset")
    work()
    tracker.stop_task()
    for number in range(2):
        tracker.start_task(f"Inference{number}")
        work()
        tracker.stop_task(f"Inference{number}")
    emissions = tracker.stop()
    tasks = {name: task.emissions_data for name, task in tracker._tasks.items()}
    assert list(tasks) == ["load dataset", "Inference0", "Inference1"]
    assert 0 < sum(data.emissions for data in tasks.values()) <= emissions
    of_tasks_j = carbon_otel.footprint().stages["task"].energy_j
    in_tasks_j = sum(data.footprint.stages["task"].energy_j for data in tasks.values())
    assert in_tasks_j == pytest.approx(of_tasks_j, rel=1e-9)
    assert all(data.cpu_energy == data.energy_consumed and data.cpu_power > 0 for data in tasks.values())
    written = rows(f"emissions_base_{tracker.run_id}.csv")
    assert [row["task_name"] for row in written] == list(tasks)
    same_energy(energy_of(tracker), of=[tracker])


def test_task_loop_same_task():
    tracker = EmissionsTracker(project_name="loop", measure_power_secs=1, log_level="debug")
    found = []
    for _ in range(3):
        tracker.start_task("round")
        work()
        found.append(tracker.stop_task())
    assert tracker.stop_task() is None
    same_energy(*[data.energy_consumed for data in found])
    tracker.stop()
    assert len(tracker._tasks) == 3, "tasks of one name are kept apart"
    same_energy(energy_of(tracker))
    assert logging.getLogger("carbon_otel").level == logging.DEBUG
    logging.getLogger("carbon_otel").setLevel(logging.NOTSET)


def test_multithread():
    trackers = [
        OfflineEmissionsTracker(country_iso_code="FRA", measure_power_secs=30, project_name="ultra_secret")
        for _ in range(3)
    ]

    def example(tracker: EmissionsTracker) -> None:
        tracker.start()
        try:
            work()
        finally:
            tracker.stop()

    threads = [threading.Thread(target=example, args=(tracker,)) for tracker in trackers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(rows()) == 3
    at_the_same_time(*map(energy_of, trackers))


def test_print_hardware():
    tracker = EmissionsTracker(measure_power_secs=0, save_to_file=False)
    hardware = tracker.get_detected_hardware()
    assert hardware["ram_total_size"] > 0 and hardware["cpu_count"] >= hardware["cpu_physical_count"] > 0
    assert hardware["cpu_model"] and hardware["gpu_count"] == 0 and hardware["gpu_model"] == ""
    assert not hardware.get("gpu_ids")
    with tracker:
        work()
    assert not Path("emissions.csv").exists()
    same_energy(energy_of(tracker), of=[tracker])


def test_logging_to_file():
    tracker = OfflineEmissionsTracker(
        country_iso_code="FRA", measure_power_secs=30, project_name="ultra_secret"
    )
    tracker.start()
    try:
        work()
    finally:
        tracker.stop()
    (row,) = rows()
    assert (row["country_name"], row["country_iso_code"], row["tracking_mode"]) == (
        "France",
        "FRA",
        "machine",
    )
    same_energy(float(row["energy_consumed"]))


@pytest.mark.parametrize(
    "arguments",
    [
        {"measure_power_secs": 30, "api_call_interval": 4, "api_key": "12aaaaaa", "save_to_api": True},
        {"measure_power_secs": 5, "api_call_interval": 3, "save_to_prometheus": True},
        {"save_to_logger": True, "logging_logger": object()},
        {"output_methods": [OutputMethod.CSV, OutputMethod.BOAMPS], "metadata": {"boamps": {}}},
    ],
    ids=["api_call", "prometheus_call", "logging_to_logfire", "boamps_output"],
)
def test_examples_of_other_outputs(arguments, caplog):
    @track_emissions(**arguments)
    def train_model() -> None:
        work()

    train_model()
    train_model()
    said = [record.message for record in caplog.records if "no effect" in record.message]
    assert len(said) == 1 and list(arguments)[-1] in said[0]
    same_energy(*[float(row["energy_consumed"]) for row in rows()])


def test_pue():
    @track_emissions(measure_power_secs=3, pue=2)
    def train_model() -> None:
        work()

    train_model()
    (row,) = rows()
    kwh = float(row["energy_consumed"])
    france = carbon_otel.footprint().intensity.g_per_kwh
    assert float(row["emissions"]) == pytest.approx(kwh * 2 * france / 1000)
    same_energy(kwh)


def test_water_consumption():
    tracker = EmissionsTracker(save_to_file=False, wue=1.8)
    tracker.start()
    work()
    tracker.stop()
    data = tracker.final_emissions_data
    assert data.water_consumed / data.energy_consumed == pytest.approx(1.8)
    assert data.country_name == "France"
    same_energy(data.energy_consumed)


def test_slurm_logging(caplog):
    Path("logs").mkdir()
    tracker = OfflineEmissionsTracker(
        country_iso_code="DEU",
        region="DE-NW",
        measure_power_secs=10,
        api_call_interval=2,
        gpu_ids="[]",
        tracking_mode="process",
        tracking_pids=4711,
        save_to_prometheus=True,
        prometheus_url="129.217.31.239:9091",
        project_name="user",
        experiment_name="4711",
        output_dir="logs",
        output_file="emission.csv",
    )
    tracker.start()
    work()
    tracker.stop()
    (row,) = rows("logs/emission.csv")
    assert (row["country_iso_code"], row["tracking_mode"]) == ("DEU", "process")
    messages = " ".join(record.message for record in caplog.records)
    assert "tracking_pids" in messages and "no figure for de-nw, so Germany counts" in messages
    # Its share by CPU time may be zero: it sleeps.
    same_energy(float(row["energy_consumed"]), of=[tracker], above_zero=False)


def test_the_script_of_the_article_runs_with_another_import(fed):
    script = (PROGRAMS / "forest_table.py").read_text()
    Path("forest.py").write_text(
        script.replace("from codecarbon import", "from carbon_otel.compat.codecarbon import")
    )
    done = subprocess.run(
        [sys.executable, "forest.py"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    head, *lines = done.stdout.splitlines()
    assert head.split() == ["model", "accuracy", "kg", "CO2eq", "kWh"]
    table = {line.split()[0]: list(map(float, line.split()[1:])) for line in lines}
    assert list(table) == ["basic", "intermediate", "complex"]
    for row in rows():
        accuracy, kilograms, kwh = table[row["project_name"]]
        assert accuracy > 0.6 and kwh > 0
        assert kilograms == pytest.approx(float(row["emissions"]), rel=1e-3)
        assert kwh == pytest.approx(float(row["energy_consumed"]), rel=1e-3)


# Beyond the examples.


def test_what_runs_in_other_contexts_between_start_and_stop_is_in_the_tracker():
    """Cells of a notebook are tasks, so that nothing of one is current in the next; so are requests."""

    async def cell(code: Callable[[], object]) -> None:
        code()

    def fit() -> None:
        with carbon_otel.stage("training"):
            work()

    async def notebook(tracker: EmissionsTracker) -> None:
        for code in (
            tracker.start,
            fit,
            partial(tracker.start_task, "fit"),
            fit,
            tracker.stop_task,
            tracker.stop,
        ):
            await asyncio.create_task(cell(code))

    tracker = EmissionsTracker()
    asyncio.run(notebook(tracker))
    training_j = carbon_otel.footprint().stages["training"].energy_j
    assert training_j >= 6
    assert tracker.footprint.energy_j >= training_j
    assert tracker._tasks["fit"].emissions_data.energy_consumed * J_PER_KWH >= 3


def test_trackers_that_overlap_in_a_thread():
    outer, inner = EmissionsTracker(), EmissionsTracker()
    outer.start()
    work()
    inner.start()
    work()
    outer.stop()
    inner_j = inner.footprint.energy_j
    assert outer.footprint.energy_j > inner_j
    work()
    inner.stop()
    assert inner.footprint.energy_j > inner_j, "the inner one goes on after the end of the outer one"
    at_the_same_time(energy_of(outer), energy_of(inner))
    ended = carbon_otel.footprint().stages["tracker"].energy_j
    work()
    assert carbon_otel.footprint().stages["tracker"].energy_j == ended
    assert outer.footprint.energy_j == pytest.approx(energy_of(outer) * J_PER_KWH)


def test_a_tracker_in_a_process_that_is_measured_already(caplog, fed):
    carbon_otel.instrument(zone="FR", pue=1.5)
    tracker = OfflineEmissionsTracker(country_iso_code="POL", pue=1.1, save_to_file=False)
    # As in a library that its user knows nothing of.
    with carbon_otel.stage("training") as training, tracker:
        work()
    assert tracker.footprint.stages["tracker"].energy_j == pytest.approx(
        carbon_otel.footprint().stages["tracker"].energy_j
    )
    assert training.footprint.intensity.zone == carbon_otel.footprint().intensity.zone == "FR"
    assert tracker.footprint.intensity.zone == "PL" and tracker.footprint.pue == 1.1
    poland = tracker.footprint.intensity.g_per_kwh
    assert tracker.final_emissions == pytest.approx(energy_of(tracker) * 1.1 * poland / 1000)
    (said,) = [r.message for r in caplog.records if "measured already" in r.message]
    assert "zone='FR' instead of 'PL', pue=1.5 instead of 1.1" in said


def test_where_nothing_names_a_place_the_first_tracker_does(monkeypatch):
    """As under `carbon-otel run`, whose table would else have the world average beside the tracker's France."""
    monkeypatch.delenv("CARBON_OTEL_ZONE")
    carbon_otel.instrument()
    for zone in ("FR", "PL"):
        with OfflineEmissionsTracker(country_2letter_iso_code=zone, save_to_file=False) as tracker:
            work()
        assert carbon_otel.footprint().intensity.zone == "FR"
        assert tracker.footprint.intensity.zone == zone


def test_a_second_tracker_of_another_country_has_its_own_emissions():
    intensities = []
    for code in ("FRA", "POL"):
        with OfflineEmissionsTracker(country_iso_code=code) as tracker:
            work()
        intensities.append(tracker.final_emissions / energy_of(tracker))
    assert intensities[1] > 5 * intensities[0]
    assert [row["country_iso_code"] for row in rows()] == ["FRA", "POL"]


def test_a_tracker_in_an_mlflow_run(tmp_path):
    mlflow = pytest.importorskip("mlflow")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    tracker = EmissionsTracker()
    tracker.start()
    tracker.stop()
    with mlflow.start_run() as run, EmissionsTracker(project_name="forest") as tracker:
        work()
    assert carbon_otel.flush(60)
    metrics = mlflow.get_run(run.info.run_id).data.metrics
    assert metrics["carbon/energy_wh"] >= energy_of(tracker) * 1000 > 0
    mlflow.set_tracking_uri(None)


def test_a_tracker_starts_again_with_a_new_run():
    tracker = EmissionsTracker(on_csv_write="update")
    energies = []
    for _ in range(2):
        tracker.start()
        work()
        tracker.stop()
        assert tracker.stop() == tracker.final_emissions
        energies.append(energy_of(tracker))
    assert [float(row["energy_consumed"]) for row in rows()] == energies
    assert len({row["run_id"] for row in rows()}) == 2
    same_energy(*energies)


def test_an_exception_ends_the_tracker_and_is_on_its_span(tmp_path):
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    carbon_otel.instrument(zone="FR", tracer_provider=provider)

    @track_emissions
    def train() -> None:
        work()
        raise RuntimeError("no data")

    with pytest.raises(RuntimeError, match="no data"):
        train()
    (row,) = rows()
    (span,) = exporter.get_finished_spans()
    assert (span.name, span.status.is_ok) == ("codecarbon", False)
    assert span.attributes["codecarbon.run_id"] == row["run_id"]
    same_energy(float(row["energy_consumed"]))


def test_a_coroutine_is_tracked_while_it_is_awaited():
    @track_emissions(project_name="async")
    async def serve(seconds: float) -> str:
        await asyncio.sleep(seconds)
        work()
        return "answer"

    async def main() -> list[str]:
        return await asyncio.gather(serve(0.1), serve(0.2))

    assert asyncio.run(main()) == ["answer", "answer"]
    assert min(float(row["duration"]) for row in rows()) >= 0.1
    at_the_same_time(*[float(row["energy_consumed"]) for row in rows()])


@contextlib.contextmanager
def calls_of_the_network(monkeypatch) -> Iterator[list[object]]:
    calls: list[object] = []

    def refuse(*arguments: object, **_: object) -> None:
        calls.append(arguments)
        raise OSError("no network in this test")

    with monkeypatch.context() as patch:
        for name in ("connect", "connect_ex", "sendto"):
            patch.setattr(socket.socket, name, refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        yield calls


def test_no_tracker_asks_the_network(monkeypatch):
    with calls_of_the_network(monkeypatch) as calls:
        with EmissionsTracker(
            save_to_api=True, electricitymaps_api_token="x", emissions_endpoint="http://x"
        ) as t:
            work()
        with OfflineEmissionsTracker(cloud_provider="aws", cloud_region="eu-north-1") as cloud:
            work()
        with pytest.raises(OSError, match="no network"):
            socket.create_connection(("localhost", 1))
        assert len(calls) == 1
    assert cloud.footprint.intensity.zone == "SE"
    assert (rows()[1]["on_cloud"], rows()[1]["cloud_region"]) == ("Y", "eu-north-1")
    same_energy(energy_of(t), energy_of(cloud))


def test_processes_that_end_at_once_have_a_row_each():
    program = (
        "from carbon_otel.compat.codecarbon import EmissionsTracker\n"
        "import sys\n"
        "with EmissionsTracker(project_name=sys.argv[1]): pass\n"
        "print('ended', flush=True)"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(number)], env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        for number in range(4)
    ]
    assert [process.wait(120) for process in started] == [0] * 4
    assert sorted(row["project_name"] for row in rows()) == ["0", "1", "2", "3"]

"""Forks, kills, dead servers and broken sensors: the program goes on, and the figure says what it lacks."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import carbon_otel
from carbon_otel import runtime
from tests.fakes.powercap import server
from tests.integration.test_otlp import free_port

pytestmark = pytest.mark.chaos


@pytest.fixture
def tree(tmp_path):
    return server(tmp_path)


def python(text: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", text, *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_sensor_that_fails_in_mid_run_is_a_gap_and_one_line(tree, caplog):
    carbon_otel.instrument(zone="FR", powercap_root=tree.root, interval_s=0.02)
    with caplog.at_level(logging.WARNING, "carbon_otel"), carbon_otel.stage("training") as s:
        for _ in range(20):
            time.sleep(0.01)
            tree.package[0].add(0.5)
        tree.package[0].write(b"garbage")
        time.sleep(0.2)
    footprint = s.footprint
    assert "gap:intel-rapl:0" in footprint.flags
    assert footprint.gap_s > 0.1
    assert footprint.energy_j > 10  # what was read, and the gap filled with the power it had
    assert footprint.measured_fraction < 1
    assert footprint.high_j - footprint.low_j > 0.1 * footprint.energy_j
    assert len([r for r in caplog.records if "could not be read" in r.getMessage()]) == 1


def test_a_sensor_that_comes_back_loses_nothing(tree):
    carbon_otel.instrument(zone="FR", powercap_root=tree.root, interval_s=0.02)
    with carbon_otel.stage("training") as s:
        time.sleep(0.05)
        tree.package[0].write(b"")
        time.sleep(0.1)
        tree.package[0].add(8)
        time.sleep(0.1)
    assert s.footprint.energy_j == pytest.approx(8, abs=0.01)
    assert s.footprint.measured_fraction == 1
    assert s.footprint.gap_s == 0


FORKS = """
import os, sys, time
import carbon_otel
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
spans = InMemorySpanExporter()
provider = TracerProvider(shutdown_on_exit=False)
provider.add_span_processor(SimpleSpanProcessor(spans))
carbon_otel.instrument(zone="FR", interval_s=0.01, tracer_provider=provider)

def child_exits_inside():
    pass

def child_measures():
    with carbon_otel.stage("inference") as s:
        end = time.monotonic() + 0.02
        while time.monotonic() < end:
            sum(range(1000))
    assert s.footprint.method == "modelled.utilisation", s.footprint
    assert [span.name for span in spans.get_finished_spans()] == ["inference"]
    assert set(carbon_otel.footprint().stages) <= {"inference", "unattributed"}
    assert carbon_otel.footprint().duration_s < 5

for i in range(30):
    with carbon_otel.stage("training") as outer:
        pid = os.fork()
        if pid == 0:
            spans.clear()
            try:
                (child_measures if i % 2 else child_exits_inside)()
            except BaseException as error:
                print(repr(error), flush=True)
                os._exit(1)
            if i % 3:
                os._exit(0)
    if pid == 0:  # left the parent's block in the child: it is not the child's to end
        ended = [span.name for span in spans.get_finished_spans()]
        os._exit(0 if "training" not in ended else 2)
    _, status = os.waitpid(pid, 0)
    assert status == 0, (i, status)
assert len(spans.get_finished_spans()) == 30
print("ok", len(carbon_otel.runtime.active().engine._open))
"""


def test_forks_while_the_sampler_ticks():
    done = python(FORKS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "ok 0\n"


def _in_a_worker(_: int) -> tuple[str, bool]:
    with carbon_otel.stage("data_processing") as s:
        sum(range(200_000))
    return s.footprint.method, runtime.active() is not None


def test_workers_of_multiprocessing(tree):
    carbon_otel.instrument(zone="FR", powercap_root=tree.root, interval_s=0.05)
    with carbon_otel.stage("training"), multiprocessing.get_context("fork").Pool(2) as pool:
        results = pool.map(_in_a_worker, range(4))
    assert results == [("measured.counter", True)] * 4
    assert "data_processing" not in carbon_otel.footprint().stages


def test_a_stopped_process_goes_on_where_it_was():
    text = """
import sys, time, json, carbon_otel
carbon_otel.instrument(zone="FR", interval_s=0.05)
with carbon_otel.stage("training") as s:
    print("open", flush=True)
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        sum(range(1000))
print(json.dumps(s.footprint.as_dict()))
"""
    process = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "open\n"
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(1.5)
    os.kill(process.pid, signal.SIGCONT)
    footprint = json.loads(process.communicate(timeout=60)[0])
    assert process.returncode == 0
    assert footprint["energy_j"] > 0 and footprint["duration_s"] > 2.4


def test_a_journal_that_cannot_be_written_is_one_line(tmp_path):
    done = python(
        "import time, carbon_otel\ncarbon_otel.instrument(zone='FR', interval_s=0.02)\n"
        "with carbon_otel.stage('training') as s: time.sleep(0.2)\nprint(s.footprint.method)",
        CARBON_OTEL_JOURNAL=str(tmp_path / "no" / "such" / "folder" / "f.json"),
        CARBON_OTEL_CHECKPOINT_INTERVAL_S="0.02",
    )
    assert done.returncode == 0
    assert done.stdout == "modelled.utilisation\n"
    assert done.stderr.count("the program goes on") == 1


def test_a_disk_that_is_full():
    done = python(
        "import time, carbon_otel\ncarbon_otel.instrument(zone='FR', interval_s=0.02)\n"
        "with carbon_otel.stage('training') as s: time.sleep(0.1)\nprint(s.footprint.method)",
        CARBON_OTEL_JOURNAL="/dev/full/footprint.json",
    )
    assert (done.returncode, done.stdout) == (0, "modelled.utilisation\n")


def settled(look, wanted, seconds=5.0):
    """What `look` gives once it is what is wanted, or has had its time: threads end a moment after the session."""
    deadline = time.monotonic() + seconds
    while (found := look()) != wanted and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


@pytest.mark.parametrize("endpoint", ["", "http://127.0.0.1:9"])
def test_sessions_leave_nothing_behind(tree, endpoint, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")

    def cycle() -> None:
        carbon_otel.instrument(zone="FR", powercap_root=tree.root, interval_s=0.02)
        with carbon_otel.stage("training"):
            pass
        carbon_otel.uninstrument()

    def held() -> tuple[int, int]:
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    cycle()
    before = held()
    for _ in range(10):
        cycle()

    def grown() -> bool:
        # The first cycle's threads may still have been ending when they were counted.
        return any(now > then for now, then in zip(held(), before, strict=True))

    assert not settled(grown, False), (before, held())


def test_ctrl_c_in_a_stage(tree):
    carbon_otel.instrument(zone="FR", powercap_root=tree.root)
    with pytest.raises(KeyboardInterrupt), carbon_otel.stage("training") as s:
        raise KeyboardInterrupt
    assert s.footprint.method == "measured.counter"


def test_a_stage_left_open_in_a_daemon_thread_at_exit():
    done = python(
        "import threading, time, carbon_otel\ncarbon_otel.instrument(zone='FR')\n"
        "def forever():\n    with carbon_otel.stage('inference'): time.sleep(60)\n"
        "threading.Thread(target=forever, daemon=True).start()\ntime.sleep(0.2)\nprint('end')"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


SERVED = """
import sys, time, carbon_otel
carbon_otel.instrument(zone="FR", interval_s=0.05, checkpoint_interval_s=0.2)
import mlflow
mlflow.set_tracking_uri(sys.argv[1])
run = mlflow.start_run()
print(run.info.run_id, flush=True)
sys.stdin.readline()
with carbon_otel.stage("training") as s:
    end = time.monotonic() + 1
    while time.monotonic() < end:
        sum(range(1000))
print(s.footprint.energy_j > 0, flush=True)
if sys.argv[2] == "end":
    mlflow.end_run()
"""


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory):
    """A real `mlflow server`: (its URI, its process)."""
    import urllib.request

    folder, port = tmp_path_factory.mktemp("server"), free_port()
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--workers",
            "1",
        ]
        + ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder)],
        cwd=folder,
        stdout=(folder / "log").open("w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                break
        except OSError:
            assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.5)
    yield f"http://127.0.0.1:{port}", process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def served(uri: str, end: str) -> tuple[subprocess.Popen[str], str]:
    impatient = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "2"}
    process = subprocess.Popen(
        [sys.executable, "-c", SERVED, uri, end],
        env={**os.environ, **impatient},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return process, process.stdout.readline().strip()


def test_a_run_over_http_and_then_the_server_dies(mlflow_server):
    """One server for both halves: the second kills it."""
    from mlflow import MlflowClient

    uri, server_process = mlflow_server
    process, run_id = served(uri, "end")
    out, err = process.communicate("go\n", timeout=60)
    assert (process.returncode, out) == (0, "True\n") or "View run" in out, err
    run = MlflowClient(uri).get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["carbon.status"] == "final"
    assert run.data.metrics["carbon/training/energy_wh"] > 0

    process, run_id = served(uri, "leave")
    os.killpg(server_process.pid, signal.SIGKILL)
    server_process.wait()
    began = time.monotonic()
    out, err = process.communicate("go\n", timeout=120)
    assert process.returncode == 0 and out.startswith("True"), err
    assert err.count("does not take the energy") == 1
    assert (
        time.monotonic() - began < 1 + 5 + 8
    )  # the work, our bound, and MLflow's own attempts to end its run

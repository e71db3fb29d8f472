"""Kills, dead servers and broken sensors: the program continues, and the figure names the missing part."""

from __future__ import annotations

import json
import logging
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
from tests.integration.processes import wait_for
from tests.integration.servers import MlflowServer

pytestmark = pytest.mark.chaos


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
        timeline = runtime.active().engine.meter.tracks[0].timeline
        # The gap is filled with the power before it, which is 0 while nothing is drawn.
        while s.footprint.energy_j < 10 or not timeline.power_w:
            time.sleep(0.01)
            tree.package[0].add(0.5)
        tree.package[0].write(b"garbage")
        time.sleep(0.2)
    footprint = s.footprint
    assert "gap:intel-rapl:0" in footprint.flags
    assert footprint.gap_s > 0.1
    assert footprint.energy_j > 10  # the readings, and the gap filled with the last power
    assert footprint.measured_fraction < 1
    assert footprint.high_j - footprint.low_j > 0.1 * footprint.energy_j
    assert len([r for r in caplog.records if "could not be read" in r.getMessage()]) == 1


def test_a_sensor_that_comes_back_loses_nothing(tree):
    carbon_otel.instrument(zone="FR", powercap_root=tree.root, interval_s=0.02)
    with carbon_otel.stage("training") as s:
        time.sleep(0.05)
        tree.package[0].write(b"")
        time.sleep(0.1)
        for zone in tree.zones.values():  # a counter that never changes would be flagged
            zone.add(8)
        time.sleep(0.1)
    # The last reading may be 2 ms old: that time is extrapolated with the last power, 160 W at most.
    devices = s.footprint.devices
    assert 8 - 1e-9 <= devices["intel-rapl:0"] <= 8 + 0.002 * 160
    assert s.footprint.measured_fraction == 1
    assert s.footprint.gap_s == 0


def test_a_stopped_process_continues_where_it_was():
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
        CARBON_OTEL_CHECKPOINT_INTERVAL="0.02",
    )
    assert done.returncode == 0
    assert done.stdout == "modelled.utilisation\n"
    assert done.stderr.count("the program continues") == 1


def test_a_disk_that_is_full():
    done = python(
        "import time, carbon_otel\ncarbon_otel.instrument(zone='FR', interval_s=0.02)\n"
        "with carbon_otel.stage('training') as s: time.sleep(0.1)\nprint(s.footprint.method)",
        CARBON_OTEL_JOURNAL="/dev/full/footprint.json",
    )
    assert (done.returncode, done.stdout) == (0, "modelled.utilisation\n")


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

    # Threads end a moment after their session.
    wait_for(lambda: all(now <= then for now, then in zip(held(), before, strict=True)))


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


def test_a_run_over_http_and_then_the_server_dies(launch, tmp_path, empty_store):
    MlflowClient = pytest.importorskip("mlflow").MlflowClient  # noqa: N806 - a class

    server = MlflowServer(tmp_path, empty_store.copy(tmp_path))
    impatient = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "2"}
    try:
        server.start()
        ended = launch("one_run.py", server.url, "end", **impatient)
        ended_id = ended.line()
        ended.go()
        ended.finish()
        run = MlflowClient(server.url).get_run(ended_id)
        assert run.info.status == "FINISHED"
        assert run.data.tags["carbon.status"] == "final"
        assert run.data.metrics["carbon/training/energy_wh"] > 0

        left_open = launch("one_run.py", server.url, "leave", **impatient)
        assert left_open.line()
    finally:
        server.kill()
    left_open.go()
    # The bound of 5 s, MLflow's attempts to end the run, and an allowance for a busy machine.
    assert left_open.exit_s() < 30
    assert left_open.err.count("does not accept the figures") == 1

"""Several measured processes of one host: each joule of a device is counted once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from carbon_otel.meter.peers import Peers
from tests.fakes.powercap import server

PACKAGE_W = 40.0

MEMBER = """
import json, os, sys, time
import carbon_otel
carbon_otel.instrument(zone="FR", powercap_root=sys.argv[1], interval=0.25)
busy = sys.argv[2] == "busy"
print("ready", flush=True)
sys.stdin.readline()
with carbon_otel.stage("training") as s:
    print("open", flush=True)
    end = time.monotonic() + float(sys.argv[3])
    while time.monotonic() < end:
        if busy:
            sum(range(2000))
        else:
            time.sleep(0.05)
print(json.dumps(s.footprint.as_dict()), flush=True)
"""


class Feeder:
    """Two packages that draw a constant power, from a thread of the test."""

    def __init__(self, tree):
        self._tree = tree
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._stop.set()
        self._thread.join()

    def _run(self):
        start = time.monotonic()
        while not self._stop.wait(0.01):
            for zone in self._tree.package:
                zone.set(1000 + PACKAGE_W * (time.monotonic() - start))


@pytest.fixture
def fed(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    tree = server(tmp_path / "sys")
    with Feeder(tree):
        yield tree


def members(tree, *kinds, seconds):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", MEMBER, str(tree.root), kind, str(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for kind in kinds
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    time.sleep(0.8)  # a few ticks, in which all have seen each other
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        assert process.stdout.readline() == "open\n"
    return processes


@pytest.mark.parametrize("kinds", [("busy",) * 4, ("busy", "idle")])
def test_the_stages_of_all_processes_add_up_to_the_device(fed, kinds):
    seconds = 4
    processes = members(fed, *kinds, seconds=seconds)
    results = [json.loads(process.communicate(timeout=60)[0]) for process in processes]
    # CPU times come in hundredths of a second: over ticks this short the shares are a few per cent unsure.
    watts = sum(result["energy_j"] / result["duration_s"] for result in results)
    assert watts == pytest.approx(2 * PACKAGE_W, rel=0.06)
    if "idle" in kinds:
        busy, idle = results
        assert idle["energy_j"] < busy["energy_j"]


def test_a_killed_process_leaves_no_lock_and_no_hole(fed):
    survivor, victim = members(fed, "idle", "idle", seconds=2.5)
    time.sleep(0.5)
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    result = json.loads(survivor.communicate(timeout=60)[0])
    # Half of the devices for half a second, then all of them.
    assert result["energy_j"] == pytest.approx(2 * PACKAGE_W * (0.25 + 2.0), rel=0.12)


def test_membership(tmp_path):
    ours = Peers("view", tmp_path)
    assert ours.cpu_seconds() == {}
    assert ours.keeps_device_book()
    program = (
        "import sys, pathlib\nfrom carbon_otel.meter.peers import Peers\n"
        "p = Peers(sys.argv[1], pathlib.Path(sys.argv[2]))\n"
        "print(sorted(p.cpu_seconds()), p.keeps_device_book(), flush=True)\nsys.stdin.readline()\n"
        "print(p.keeps_device_book(), flush=True)\nsys.stdin.readline()"
    )

    def member(view):
        return subprocess.Popen(
            [sys.executable, "-c", program, view, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    stranger, other = member("another view"), member("view")
    assert stranger.stdout.readline() == "[] True\n"
    assert other.stdout.readline() == f"{sorted([os.getpid(), other.pid])} False\n"
    assert set(ours.cpu_seconds()) == {os.getpid(), other.pid}
    ours.leave()
    other.stdin.write("\n")
    other.stdin.flush()
    assert other.stdout.readline() == "True\n"
    assert all(folder.stat().st_mode & 0o777 == 0o700 for folder in tmp_path.rglob("*") if folder.is_dir())
    for process in (stranger, other):
        process.kill()
        process.communicate()
    again = Peers("view", tmp_path)
    assert again.cpu_seconds() == {} and again.keeps_device_book()
    again.leave()


def test_a_folder_that_others_can_write_is_not_used(tmp_path):
    tmp_path.chmod(0o777)
    alone = Peers("view", tmp_path)
    assert alone.cpu_seconds() == {} and alone.keeps_device_book()

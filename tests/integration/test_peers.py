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

from carbon_otel.host.membership import Membership
from tests.fakes.powercap import server

PACKAGE_W = 40.0

MEMBER = """
import json, os, subprocess, sys, time
import carbon_otel
carbon_otel.instrument(zone="FR", powercap_root=sys.argv[1], interval_s=0.25)
kind = sys.argv[2]
child = [sys.executable, "-S", "-c", "import time\\nwhile time.process_time() < 0.1: pass"]
print("ready", flush=True)
sys.stdin.readline()
with carbon_otel.stage("training") as s:
    print("open", flush=True)
    end = time.monotonic() + float(sys.argv[3])
    while time.monotonic() < end:
        if kind == "busy":
            sum(range(2000))
        elif kind == "children":
            subprocess.run(child)
        else:
            time.sleep(0.05)
print(json.dumps(s.footprint.as_dict()), flush=True)
sys.stdin.readline()
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


def results_of(processes):
    """Their footprints; none leaves before all have ended their stages."""
    results = [json.loads(process.stdout.readline()) for process in processes]
    for process in processes:
        process.communicate(timeout=60)
    return results


@pytest.mark.parametrize("kinds", [("busy",) * 4, ("busy", "idle"), ("children", "busy", "idle")])
def test_the_stages_of_all_processes_add_up_to_the_device(fed, kinds):
    results = results_of(members(fed, *kinds, seconds=4))
    watts = sum(result["energy_j"] / result["duration_s"] for result in results)
    assert watts == pytest.approx(2 * PACKAGE_W, rel=0.02)
    if "idle" in kinds:
        *working, idle = results
        assert all(result["energy_j"] > 1.2 * idle["energy_j"] for result in working)
    assert all(result["shares"].keys() == {"reserved", "process"} for result in results)


def test_a_killed_process_leaves_no_lock_and_no_hole(fed):
    survivor, victim = members(fed, "idle", "idle", seconds=2.5)
    time.sleep(0.5)
    os.kill(victim.pid, signal.SIGKILL)
    victim.communicate()
    (result,) = results_of([survivor])
    # Half of the devices for half a second, then all of them.
    assert result["energy_j"] == pytest.approx(2 * PACKAGE_W * (0.25 + 2.0), rel=0.12)


def test_the_device_book_passes_on_and_nobody_else_can_read(tmp_path):
    ours = Membership("view", tmp_path)
    assert ours.holds_device_book()
    program = (
        "import sys, pathlib\nfrom carbon_otel.host.membership import Membership\n"
        "p = Membership(sys.argv[1], pathlib.Path(sys.argv[2]))\n"
        "print(p.holds_device_book(), flush=True)\nsys.stdin.readline()\n"
        "print(p.holds_device_book(), flush=True)\nsys.stdin.readline()"
    )

    def member(view):
        return subprocess.Popen(
            [sys.executable, "-c", program, view, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    stranger, other = member("another view"), member("view")
    assert stranger.stdout.readline() == "True\n"
    assert other.stdout.readline() == "False\n"
    assert ours.alive(other.pid) and not ours.alive(stranger.pid)
    ours.leave()
    other.stdin.write("\n")
    other.stdin.flush()
    assert other.stdout.readline() == "True\n"
    assert all(folder.stat().st_mode & 0o777 == 0o700 for folder in tmp_path.rglob("*") if folder.is_dir())
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.rglob("*"))
    for process in (stranger, other):
        process.kill()
        process.communicate()
    again = Membership("view", tmp_path)
    assert again.holds_device_book()
    again.leave()


def test_a_folder_that_others_can_write_is_not_used(tmp_path):
    tmp_path.chmod(0o777)
    alone = Membership("view", tmp_path)
    assert alone.folder is None and alone.holds_device_book()

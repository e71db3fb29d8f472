"""Pre-fork servers: the workers' stages and what nobody's stage paid are the device's joules, once."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.integration.conftest import PROGRAMS
from tests.integration.test_peers import fed  # noqa: F401 - a fixture

pytestmark = [pytest.mark.chaos, pytest.mark.skipif(sys.platform != "linux", reason="needs fork and /proc")]


def last_sums(sink, name):
    """The newest sum of a metric, by the process that said it."""
    sums = {}
    for instance, metric in sink.exports():
        if metric.name == name:
            sums[instance] = sum(point.as_double for point in metric.sum.data_points)
    return sums


def test_workers_of_gunicorn_count_each_joule_once(fed, sink, free_port):  # noqa: F811
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        "--preload",
        "-w",
        "2",
        "-b",
        f"127.0.0.1:{port}",
        "served:app",
    ]
    server = subprocess.Popen(
        command,
        cwd=PROGRAMS,
        env={
            **os.environ,
            "CARBON_OTEL_POWERCAP_ROOT": str(fed.root),
            "OTEL_EXPORTER_OTLP_ENDPOINT": sink.url,
            "OTEL_METRIC_EXPORT_INTERVAL": "200",
        },
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
                break
            time.sleep(0.1)

        def ask(until):
            pids = set()
            while time.monotonic() < until:
                with urllib.request.urlopen(address, timeout=5) as answer:
                    pids.add(answer.read().decode())
            return pids

        until = time.monotonic() + 5
        with ThreadPoolExecutor(4) as pool:
            workers = set().union(*pool.map(ask, [until] * 4))
        server.send_signal(signal.SIGTERM)
        _, errors = server.communicate(timeout=30)
    finally:
        if server.poll() is None:
            server.kill()
            server.communicate()
    assert "Traceback" not in errors
    assert len(workers) == 2
    stages, devices = last_sums(sink, "carbon_otel.stage.energy"), last_sums(sink, "hw.energy")
    assert len(stages) == 3  # the master, too, has a book: what it spent before and beside its workers
    # Ticks that are late, at 80 W. A worker counted twice would be some 150 J.
    assert sum(stages.values()) == pytest.approx(sum(devices.values()), abs=24), (stages, devices)

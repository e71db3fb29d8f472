"""Pre-fork servers: the stages and the unattributed energy of the workers add up to the device, once."""

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

from tests.integration.processes import PROGRAMS, wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.skipif(sys.platform != "linux", reason="needs fork and /proc")]

ASKED_S = 3


def last_sums(sink, name):
    """The last sum of a metric, by sending process."""
    sums = {}
    for instance, metric in sink.exports():
        if metric.name == name:
            sums[instance] = sum(point.as_double for point in metric.sum.data_points)
    return sums


def test_workers_of_gunicorn_count_each_joule_once(host, sink, free_port):
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
            "CARBON_OTEL_POWERCAP_ROOT": str(host.root),
            "OTEL_EXPORTER_OTLP_ENDPOINT": sink.url,
            "OTEL_METRIC_EXPORT_INTERVAL": "200",
        },
        stderr=subprocess.PIPE,
        text=True,
    )
    address = f"http://127.0.0.1:{port}"

    def answers():
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=20) as answer:
            return answer.read().decode()

    workers = set()

    def ask():
        """Send requests for some seconds, and until both workers have answered."""
        until = time.monotonic() + ASKED_S
        while time.monotonic() < until or len(workers) < 2:
            workers.add(wait_for(answers))

    try:
        with ThreadPoolExecutor(4) as pool:
            for asked in [pool.submit(ask) for _ in range(4)]:
                asked.result()
        server.send_signal(signal.SIGTERM)
        _, errors = server.communicate(timeout=60)
    finally:
        if server.poll() is None:
            server.kill()
            server.communicate()
    assert "Traceback" not in errors
    assert len(workers) == 2
    stages, devices = last_sums(sink, "carbon_otel.stage.energy"), last_sums(sink, "hw.energy")
    assert len(stages) == 3  # the master has a book too, with its energy before and beside its workers
    # Shares change between two ticks when a worker starts or ends. Counting a worker twice would add a third.
    assert sum(stages.values()) == pytest.approx(sum(devices.values()), rel=0.15), (stages, devices)

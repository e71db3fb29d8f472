"""What ended processes of three stages cost the collector that Prometheus scrapes.

If 5,000 end within ten minutes, it shows 1,125 at a time, since it shows each for 135 s.
"""

from __future__ import annotations

import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import requests

from tests.collector.lives import copies, one_life
from tests.collector.programs import collector
from tests.integration.processes import wait_for

SCRAPE = {"Accept": "application/openmetrics-text;version=1.0.0", "Accept-Encoding": "gzip"}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [1125, 5000])
def test_the_lives_of_processes(number, table, tmp_path):
    life = one_life(tmp_path / "sys", 3)
    with collector(tmp_path, OTELCOL_METRIC_EXPIRATION="10m") as otelcol, requests.Session() as session:

        def send(content):
            url, kind = f"{otelcol.http}/v1/metrics", {"content-type": "application/x-protobuf"}
            assert session.post(url, content, headers=kind).status_code == 200

        def scrape():
            request = urllib.request.Request(f"http://{otelcol.scraped}/metrics", headers=SCRAPE)
            begun, worked = time.monotonic(), sum(process.cpu_times()[:2])
            with urllib.request.urlopen(request, timeout=60) as answer:
                answer.read()
            table(f"a scrape of {number:,} ended processes", "collector", time.monotonic() - begun, "s")
            worked = sum(process.cpu_times()[:2]) - worked
            table(f"a scrape of {number:,} ended processes, CPU time", "collector", worked, "CPU-s")

        process = psutil.Process(otelcol.process.pid)
        idle = process.memory_info().rss
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(send, copies(life, number)))

        def shown():
            return otelcol.page().count("carbon_otel_carbon_intensity_grams_per_kW_h{") == number

        wait_for(shown, poll_s=5)
        for _ in range(3):
            scrape()
        used = process.memory_info().rss - idle
        page = otelcol.page()
    series = sum(not line.startswith("#") for line in page.splitlines())
    table("a process of three stages, series", "collector", series / number, "")
    table("a process of three stages, bytes", "collector", len(page) / number, "B")
    table("a process of three stages, memory of the collector", "collector", used / number / 1e6, "MB")

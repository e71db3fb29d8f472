"""What ended processes of three stages cost the collector that Prometheus scrapes.

If 5,000 end within ten minutes, it shows 1,125 at a time, since it shows each for 135 s.
"""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import requests

from tests.collector.lives import copies, one_life
from tests.collector.programs import Collector, collector
from tests.integration.processes import wait_for

SCRAPE = {"Accept": "application/openmetrics-text;version=1.0.0", "Accept-Encoding": "gzip"}
SCRAPE_INTERVAL_S = 15
LIVES = 5000
LIVES_WITHIN_S = 600
# After 135 s as many have left the page as have come: the rest of the ten minutes would add nothing.
WATCHED_S = 300


class Loaded:
    """A collector, what it takes from the machine, and a sender of ended processes."""

    def __init__(self, otelcol: Collector, session: requests.Session) -> None:
        self.otelcol = otelcol
        self._session = session
        self._process = psutil.Process(otelcol.process.pid)
        self._idle = self._process.memory_info().rss

    def send(self, content: bytes) -> None:
        url, kind = f"{self.otelcol.http}/v1/metrics", {"content-type": "application/x-protobuf"}
        assert self._session.post(url, content, headers=kind).status_code == 200

    def scrape_s(self) -> tuple[float, float]:
        """Wall and CPU seconds of a scrape."""
        request = urllib.request.Request(f"http://{self.otelcol.scraped}/metrics", headers=SCRAPE)
        begun, worked = time.monotonic(), self._worked_s()
        with urllib.request.urlopen(request, timeout=60) as answer:
            answer.read()
        return time.monotonic() - begun, self._worked_s() - worked

    def _worked_s(self) -> float:
        return sum(self._process.cpu_times()[:2])

    def memory_mb(self) -> float:
        """Resident memory over that at the start."""
        return (self._process.memory_info().rss - self._idle) / 1e6

    def shown(self) -> int:
        """How many processes the page shows."""
        return self.otelcol.page().count("carbon_otel_carbon_intensity_grams_per_kW_h{")


@contextmanager
def loaded(folder: Path, **variables: str) -> Iterator[Loaded]:
    with collector(folder, **variables) as otelcol, requests.Session() as session:
        yield Loaded(otelcol, session)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [1125, 5000])
def test_processes_shown_at_once(number: int, table: Callable[..., None], tmp_path: Path) -> None:
    life = one_life(tmp_path / "sys", 3)
    with loaded(tmp_path, OTELCOL_METRIC_EXPIRATION="10m") as load:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(load.send, copies(life, number)))
        wait_for(lambda: load.shown() == number, poll_s=5)
        for _ in range(3):
            wall_s, cpu_s = load.scrape_s()
            table(f"a scrape of {number:,} ended processes", "collector", wall_s, "s")
            table(f"a scrape of {number:,} ended processes, CPU time", "collector", cpu_s, "CPU-s")
        used_mb = load.memory_mb()
        page = load.otelcol.page()
    series = sum(not line.startswith("#") for line in page.splitlines())
    table("a process of three stages, series", "collector", series / number, "")
    table("a process of three stages, bytes", "collector", len(page) / number, "B")
    table("a process shown, memory of the collector", "collector", used_mb / number, "MB")


@pytest.mark.timeout(WATCHED_S + 120)
def test_5000_lives_within_ten_minutes(table: Callable[..., None], tmp_path: Path) -> None:
    """At their rate and the shipped settings, with a scrape every 15 s."""
    lives = copies(one_life(tmp_path / "sys", 3), LIVES)
    most_mb = 0.0
    with loaded(tmp_path) as load:
        begun = time.monotonic()
        scraped_s = begun
        for number, life in enumerate(lives):
            time.sleep(max(0.0, begun + number * LIVES_WITHIN_S / LIVES - time.monotonic()))
            load.send(life)
            if time.monotonic() - scraped_s >= SCRAPE_INTERVAL_S:
                scraped_s += SCRAPE_INTERVAL_S
                wall_s, cpu_s = load.scrape_s()
                most_mb = max(most_mb, load.memory_mb())
                if scraped_s - begun > WATCHED_S / 2:
                    table("5,000 lives in ten minutes: a scrape", "collector", wall_s, "s")
                    table("5,000 lives in ten minutes: a scrape, CPU time", "collector", cpu_s, "CPU-s")
                if scraped_s - begun > WATCHED_S:
                    break
        shown = load.shown()
    table("5,000 lives in ten minutes: shown at a time", "collector", shown, "")
    table("5,000 lives in ten minutes: most memory, by life", "collector", most_mb / LIVES, "MB")

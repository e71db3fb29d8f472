"""The series and bytes that a process costs in Prometheus."""

from __future__ import annotations

import pytest
import requests

from tests.collector.lives import copies, one_life
from tests.collector.programs import collector
from tests.integration.processes import wait_for

PROCESSES = 50


def lines(page):
    return [line for line in page.splitlines() if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """By the number of stages, the page that the collector shows of some processes."""
    found = {}
    for stages in (3, 10):
        folder = tmp_path_factory.mktemp(f"stages-{stages}")
        life = one_life(folder / "sys", stages)
        with collector(folder) as otelcol, requests.Session() as session:
            for content in copies(life, PROCESSES):
                answer = session.post(
                    f"{otelcol.http}/v1/metrics", content, headers={"content-type": "application/x-protobuf"}
                )
                assert answer.status_code == 200
            wait_for(
                lambda: otelcol.page().count("carbon_otel_carbon_intensity_grams_per_kW_h{") == PROCESSES
            )
            found[stages] = otelcol.page()
    return found


def test_a_process_of_three_stages(pages):
    assert len(lines(pages[3])) / PROCESSES <= 30
    assert len(pages[3]) / PROCESSES <= 6000


def test_each_further_stage(pages):
    assert (len(lines(pages[10])) - len(lines(pages[3]))) / 7 / PROCESSES <= 12

"""Two processes are never one series, whoever made the providers and whatever they inherit."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.collector.programs import collector
from tests.integration.processes import wait_for

JOBS = Path(__file__).parent


def start(program, folder, *arguments, **variables):
    folder.mkdir()
    return subprocess.Popen(
        [sys.executable, JOBS / program, str(folder / "sys"), *arguments],
        env={**os.environ, "OTEL_SERVICE_NAME": "shared", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def joules(otelcol):
    """By series, the energy of all stages that the collector shows."""
    found = re.findall(r"^carbon_otel_stage_energy_joules_total\{(.*)\} (\S+)", otelcol.page(), re.MULTILINE)
    return {labels: float(value) for labels, value in found}


@pytest.mark.parametrize("given", ["", "service.instance.id=pod-7"])
@pytest.mark.parametrize("whose", ["ours", "application"])
def test_three_processes_of_one_service(whose, given, tmp_path):
    with collector(tmp_path) as otelcol:
        jobs = [
            start(
                "measured_job.py",
                tmp_path / str(seconds),
                str(seconds),
                whose,
                OTEL_EXPORTER_OTLP_ENDPOINT=otelcol.http,
                OTEL_RESOURCE_ATTRIBUTES=given,
            )
            for seconds in (1, 2, 4)
        ]
        ended = [(*job.communicate(timeout=120), job.returncode) for job in jobs]
        assert all(status == 0 for _, _, status in ended), ended
        whole = sum(json.loads(out)["joules"] for out, _, _ in ended)
        wait_for(lambda: joules(otelcol) and sum(joules(otelcol).values()) > 0.99 * whole, 30)
        assert sum(joules(otelcol).values()) == pytest.approx(whole, rel=0.01)
        # Three stages and the time between them, three times.
        assert len(joules(otelcol)) == 3 * 4
    for _, err, _ in ended:
        assert ("Resource.create(" in err) is (whose == "application" and not given), err


def test_a_forked_child_on_a_provider_of_the_application(tmp_path):
    with collector(tmp_path) as otelcol:
        job = start("fork_job.py", tmp_path / "job", OTEL_EXPORTER_OTLP_ENDPOINT=otelcol.http)
        _out, err = job.communicate(timeout=120)
        assert job.returncode == 0, err
        # The child's 80 J, which both have shared, and the parent's 40 J. Without the label, 80 J are left.
        wait_for(lambda: sum(joules(otelcol).values()) > 100, 30)
        assert sum(joules(otelcol).values()) == pytest.approx(120, rel=0.1)
        assert any("service_instance_id=" in labels for labels in joules(otelcol))

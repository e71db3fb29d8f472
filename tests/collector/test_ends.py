"""What a process used that SIGTERM ends is in the real collector.

`tests/integration/test_ends.py` has all ends.
"""

from __future__ import annotations

import json
import re
import signal
import sys

import pytest

from tests.collector.programs import collector
from tests.fakes.drawing import Drawing
from tests.fakes.powercap import server
from tests.integration.processes import Program, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="no handler of SIGTERM elsewhere")

TOLERANCE = 0.04


@pytest.mark.parametrize("end", ["waits", "open", "pool fork terminates"])
def test_what_a_terminated_process_used_is_in_the_collector(end, tmp_path):
    with collector(tmp_path) as otelcol, Drawing(server(tmp_path / "sys"), zones=1, watts=50) as package:

        def joules() -> float:
            samples = r"^carbon_otel_stage_energy_joules_total\{.*\} (\S+)"
            return sum(map(float, re.findall(samples, otelcol.page(), re.MULTILINE)))

        program = Program(
            "ends.py",
            end,
            "",
            str(package.root),
            str(tmp_path / "state"),
            OTEL_EXPORTER_OTLP_ENDPOINT=otelcol.http,
            OTEL_METRIC_EXPORT_INTERVAL="3600000",
        )
        told = json.loads(program.line())
        if end != "pool fork terminates":
            program.process.send_signal(signal.SIGTERM)
        _, errors = program.process.communicate(timeout=120)
        assert program.process.returncode in (0, -signal.SIGTERM), errors
        before, after = told["around"]
        at_least, at_most = told["worked"] - after, package.joules - before
        wait_for(lambda: joules() > at_least * (1 - TOLERANCE))
        assert joules() < at_most * (1 + TOLERANCE)

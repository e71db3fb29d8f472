"""Systems that lack parts of Python's `os`, emulated: the processor is modelled, and nothing fails."""

from __future__ import annotations

import pytest

from tests.fakes.powercap import server
from tests.integration.processes import Program


@pytest.mark.parametrize("attribution", ["reserved", "process"])
@pytest.mark.parametrize(
    ("system", "files"),
    [("win32", "hidden"), ("darwin", "hidden"), ("linux", "visible"), ("unknown", "visible")],
)
def test_the_processor_is_modelled(system, files, attribution, tmp_path):
    program = Program("other_system.py", system, files, CARBON_OTEL_ATTRIBUTION=attribution)
    lines = program.finish().splitlines()
    results = [line for line in lines if not line.startswith("WARNING")]
    assert results == ["True modelled.utilisation True evaluation training unattributed"] * 2
    warnings = {line for line in lines if line.startswith("WARNING")}
    # Without locks on files, what waits for MLflow is not kept on the disk, and processes cannot meet.
    expected = ("kept in memory only", "may be counted more than once")
    assert all(any(text in line for text in expected) for line in warnings), warnings
    assert "Traceback" not in program.err


def test_counters_are_read_without_pread(tmp_path):
    root = server(tmp_path).root
    program = Program("other_system.py", "linux", "visible", CARBON_OTEL_POWERCAP_ROOT=str(root))
    assert "True measured.counter" in program.finish()

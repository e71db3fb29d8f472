"""Nothing of a library is imported that its user has not imported."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

LIBRARIES = ("transformers", "keras", "optuna", "datasets", "lightning.pytorch", "xgboost", "lightgbm")
PROGRAM = """
import importlib, json, sys
if sys.argv[1] == "measured":
    import carbon_otel
    carbon_otel.instrument(zone="FR")
for name in sys.argv[2:]:
    importlib.import_module(name)
if sys.argv[1] == "measured":
    with carbon_otel.stage("training"):
        pass
    carbon_otel.uninstrument()
roots = {name.partition(".")[0] for name in sys.argv[2:]} | {"torch", "multiprocess", "sklearn"}
print(json.dumps(sorted(name for name in sys.modules if name.partition(".")[0] in roots)))
"""


def imported(how: str) -> list[str]:
    program = [sys.executable, "-W", "ignore", "-c", PROGRAM, how, *LIBRARIES]
    out = subprocess.run(program, check=True, capture_output=True, text=True, timeout=240).stdout
    return json.loads(out.splitlines()[-1])


def test_the_modules_of_the_libraries_are_those_of_the_program_without_us():
    for name in LIBRARIES:
        pytest.importorskip(name)
    alone = imported("alone")
    assert imported("measured") == alone
    assert "transformers.trainer" not in alone

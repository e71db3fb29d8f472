"""`carbon-otel doctor --frameworks` names the installed libraries, their versions and calls, and imports none."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from carbon_otel.instrumentation import BUILT_IN
from carbon_otel.instrumentation.calls import Calls
from carbon_otel.instrumentation.inventory import inventory

PROGRAM = """
import sys
from carbon_otel.cli import app
try:
    app(["doctor", "--frameworks", *sys.argv[1:]])
finally:
    print(sorted({"xgboost", "pandas", "polars", "torch", "sklearn"} & set(sys.modules)), file=sys.stderr)
"""


def doctor(*options: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *options], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stderr.splitlines()[-1] == "[]"
    return done


def test_every_call_of_the_installed_libraries_is_listed():
    xgboost = pytest.importorskip("xgboost")
    calls = json.loads(doctor("--json").stdout)
    assert {
        "library": "xgboost",
        "call": "xgboost.train",
        "kind": "training",
        "weight": "stage",
    }.items() <= next(call for call in calls if call["call"] == "xgboost.train").items()
    assert {call["version"] for call in calls if call["library"] == "xgboost"} == {xgboost.__version__}
    assert "sklearn" in {call["library"] for call in calls}
    table = doctor().stdout
    assert "xgboost" in table and "estimator.fit" in table and "Not in the installed version" not in table


def test_a_call_that_the_version_lacks_is_named():
    pytest.importorskip("xgboost")
    from carbon_otel.instrumentation.calls import Call

    (seen,) = inventory([Calls("xgboost.core", Call("Booster.levitate", "inference"))])
    assert not seen.present
    assert all(call.present for call in inventory(BUILT_IN))

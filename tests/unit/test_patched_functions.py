"""No patched function touches an object of the user outside the guard."""

from __future__ import annotations

from pathlib import Path

import carbon_otel
from tests.unit.patched_functions import Lint

ROOT = Path(carbon_otel.__file__).parents[1]
FILES = sorted(
    path for room in ("instrumentation", "mlflow") for path in (ROOT / "carbon_otel" / room).rglob("*.py")
)


def test_no_object_of_the_user_is_touched_outside_the_guard():
    lint = Lint(ROOT)
    found = [violation for path in FILES for violation in lint.violations(path)]
    assert not found, "\n".join(found)
    assert lint.functions >= 10

"""Runs an example of a saving in a small size, and checks what it prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from carbon_otel.lifecycle.proof import Verdict
from tests.environments import without_settings
from tests.integration.stores import EmptyStore

SAVINGS = Path(__file__).parents[2] / "examples" / "savings"
_CODE = """
import json, sys
import carbon_otel
import {name}

{name}.main({arguments})
json.dump(carbon_otel.prove({runs}, metric="accuracy").as_dict(), open("proof.json", "w"))
"""


def proof(
    name: str, arguments: str, runs: str, powercap: Path, store: EmptyStore, *, proofs: int = 1
) -> dict[str, Any]:
    """Call `main` of an example, whose meter is this powercap tree; returns the proof of `runs`.

    How much is saved depends on the machine and on what else it does, so that only the form is checked.
    """
    folder = powercap.parent
    done = subprocess.run(
        [sys.executable, "-c", _CODE.format(name=name, arguments=arguments, runs=runs)],
        env={
            **_environment(),
            "MLFLOW_TRACKING_URI": store.copy(folder),
            "CARBON_OTEL_POWERCAP_ROOT": str(powercap),
        },
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    verdicts = tuple(f"{verdict[0].upper()}{verdict[1:]}: " for verdict in get_args(Verdict))
    assert sum(line.startswith(verdicts) for line in done.stdout.splitlines()) == proofs
    assert done.stdout.count("\nenergy per ") == done.stdout.count("\nQuality: accuracy is ") == proofs
    for word in ("not measured alike", "left out", "nan"):
        assert word not in done.stdout
    found: dict[str, Any] = json.loads((folder / "proof.json").read_text())
    ratio, base, variant = found["ratio"], found["base"], found["variant"]
    assert ratio["low"] <= ratio["value"] <= ratio["high"]
    assert ratio["value"] == pytest.approx(variant["wh_per_unit"] / base["wh_per_unit"])
    assert found["saving"]["value"] == pytest.approx(1 - ratio["value"])
    assert len(base["run_ids"]) == len(variant["run_ids"]) == 2
    assert base["measured_fraction"] > 0.5 and variant["measured_fraction"] > 0.5
    return found


def _environment() -> dict[str, str]:
    kept = without_settings()
    path = os.pathsep.join(filter(None, (str(SAVINGS), kept.get("PYTHONPATH"))))
    return {**kept, "PYTHONPATH": path, "CARBON_OTEL_ZONE": "FR"}

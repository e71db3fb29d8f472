"""Runs an example of a saving in a small size, and checks what it prints and what `carbon-otel prove` says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

from carbon_otel.lifecycle.proof import Verdict

SAVINGS = Path(__file__).parents[2] / "examples" / "savings"


def run(name: str, arguments: str, folder: Path, powercap: Path, proofs: int = 1) -> Path:
    """Call `main` of an example, whose meter is this powercap tree; returns its store.

    How much is saved depends on the machine and on what else it does, so that only the form is checked.
    """
    done = subprocess.run(
        [sys.executable, "-c", f"import {name}; {name}.main({arguments})"],
        env={**environment(folder), "PYTHONPATH": _path(), "CARBON_OTEL_POWERCAP_ROOT": str(powercap)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    verdicts = tuple(f"{verdict[0].upper()}{verdict[1:]}: " for verdict in get_args(Verdict))
    assert sum(line.startswith(verdicts) for line in done.stdout.splitlines()) == proofs
    assert done.stdout.count("\nenergy per ") == done.stdout.count("\nQuality: accuracy is ") == proofs
    assert (
        "not measured alike" not in done.stdout and "left out" not in done.stdout and "nan" not in done.stdout
    )
    return folder / "mlflow.db"


def prove(folder: Path, *arguments: str) -> dict[str, Any]:
    """What the command says of the runs, as JSON; its identities and its exit code are checked."""
    done = subprocess.run(
        [sys.executable, "-m", "carbon_otel.cli", "prove", *arguments, "--metric", "accuracy", "--json"],
        env=environment(folder),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode in (0, 1), done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode == 0) == (report["verdict"] == "proven saving")
    ratio = report["ratio"]
    assert ratio["low"] <= ratio["value"] <= ratio["high"]
    sides = report["base"], report["variant"]
    base, variant = (side["wh_per_unit"] for side in sides)
    assert (
        abs(ratio["value"] * base / variant - 1) < 1e-9
        and abs(report["saving"]["value"] + ratio["value"] - 1) < 1e-9
    )
    assert all(side["measured_fraction"] > 0.5 for side in sides)
    return report


def environment(folder: Path) -> dict[str, str]:
    """Of a program in an empty folder, with a store there."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("CARBON_OTEL_", "OTEL_"))
    }
    return {**kept, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "CARBON_OTEL_ZONE": "FR"}


def _path() -> str:
    return os.pathsep.join(filter(None, (str(SAVINGS), os.environ.get("PYTHONPATH"))))

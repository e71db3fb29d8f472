"""What measuring costs each example, as the ratio of rounds with it to those around them without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.integration.processes import ROOT

ROUNDS = 20
NEEDS = {"torch_images": "torch", "finetune": "transformers", "boosting": "optuna", "service": "fastapi"}


@pytest.mark.parametrize("name", NEEDS)
def test_an_example(name, table):
    pytest.importorskip(NEEDS[name])
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.examples", name, str(ROUNDS)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    table(f"{name}, without measurement", "CPU time of a round", figures["seconds"], "s")
    for what, time in ("cpu", "CPU time"), ("clock", "by the clock"):
        for which in ("first", "then"):
            table(
                f"{name}, with measurement", f"{time}, {which}", 100 * (figures[f"{what}_{which}"] - 1), "%"
            )
        table(f"{name}, with measurement", f"{time}: spread", 100 * figures[f"{what}_spread"], "%")

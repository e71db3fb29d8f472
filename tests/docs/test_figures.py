"""Figures in the pages are those of the code, and of the tests that produce them."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from carbon_otel import config
from carbon_otel.mlflow.delivery import spool
from carbon_otel.mlflow.runs import recorder, run_stages
from carbon_otel.otel import labels
from carbon_otel.session import session
from tests.calibration.test_curve import cubic, curve, line, machines, overall
from tests.docs.conftest import execute
from tests.docs.pages import PAGES, ROOT, table

SENSORS = PAGES["carbon_otel/sensors/README.md"]
MLFLOW = PAGES["carbon_otel/mlflow/README.md"]


@pytest.mark.parametrize(
    ("page", "text"),
    [
        (MLFLOW, f"every {config.Settings().checkpoint_interval_s:.0f} s"),
        (MLFLOW, f"at most {spool.LIMIT:,} checkpoints"),
        (MLFLOW, f"{run_stages._END_WAIT_S} s at most"),
        (PAGES["README.md"], f"{run_stages._END_WAIT_S} s at most"),
        (PAGES["carbon_otel/README.md"], f"waits {run_stages._END_WAIT_S} s at most"),
        (MLFLOW, f"over in {recorder._EMPTY_S:.0f} s"),
        (PAGES["carbon_otel/otel/README.md"], f"the first {labels._MOST_NAMES} names"),
        (PAGES["carbon_otel/otel/README.md"], f"share the label `{labels._OTHER}`"),
    ],
)
def test_limits(page, text):
    assert text in " ".join(page.text.split())


def test_the_exit_takes_no_longer_than_the_pages_promise():
    (seconds,) = re.findall(
        r"the exit takes (\d+) s longer at most", " ".join(PAGES["README.md"].text.split())
    )
    assert int(seconds) >= session.EXIT_BUDGET_S


def test_the_load_curve():
    text = " ".join(SENSORS.text.split())
    assert "points of eight machines" in text and len(machines()) == 8
    assert f"its error is {overall(curve):.0%}".replace("%", " %") in text
    assert f"a line's is {overall(line):.0%}".replace("%", " %") in text
    assert f"`TDP*(0.1+0.9u^3)` {overall(cubic):.0%}".replace("%", " %") in text
    package = f"({overall(curve, 'RAPL'):.0%} against the line's {overall(line, 'RAPL'):.0%})"
    wall = f"({overall(line, 'wall'):.0%} against {overall(curve, 'wall'):.0%})"
    assert package.replace("%", " %") in text
    assert wall.replace("%", " %") in text


def test_the_replay():
    """The table and the bands are what `pytest tests/replay` prints, which has a virtual clock."""
    replay = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/replay")
    printed = execute(ROOT, Path(sys.executable), sys.executable, *replay)
    errors, bands = printed.split("replay: truth inside our band")
    rows = {}
    for row in errors.splitlines():
        rows[row[:34].strip()] = [" ".join(row[start : start + 20].split()) for start in (34, 54, 74)]
    for label, *cells in table(SENSORS.section("The proof")):
        for cell, found in zip(cells, rows[label], strict=True):
            shown = cell.replace(" %", "%").replace(",", "")
            assert found in (shown, "not installed"), label
    covered = [float(share) for share in re.findall(r"windows +([\d.]+)%", bands)]
    assert f"{min(covered):.0f} to {max(covered):.0f} %" in SENSORS.text
    widths = dict(re.findall(r"^(\S.*?) {2,}\d+ windows +[\d.]+% +([\d.]+)%", bands, re.MULTILINE))
    prose = " ".join(SENSORS.text.split())
    rapl = [widths[f"RAPL, {length} windows"] for length in ("20 ms", "0.5 s", "5 s")]
    gpu = [widths[f"GPU counter (0.1 s), {length}"] for length in ("0.5 s", "5 s", "60 s")]
    assert "{} % at 20 ms, {} % at 0.5 s and {} % at 5 s".format(*rapl) in prose
    assert "for the GPU counter {} %, {} % and {} %".format(*gpu) in prose

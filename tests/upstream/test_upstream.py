"""Suites that nobody here wrote: what became of each test with `instrument()` is what became of it without.

The long ones run by `pytest -m upstream`. MLflow has no tests in its package: `CARBON_OTEL_MLFLOW_CHECKOUT` names
a checkout of the installed version.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

import pytest

import carbon_otel

ROOT = Path(carbon_otel.__file__).parents[1]
MLFLOW = os.environ.get("CARBON_OTEL_MLFLOW_CHECKOUT")


class Suite(NamedTuple):
    """Tests of an installed package, and the number of them that at least must run."""

    tests: str
    least: int
    options: tuple[str, ...] = ()


QUICK = Suite("sklearn.tests.test_pipeline", 100)
SUITES = [
    Suite("sklearn.tests.test_common", 2000),
    Suite("sklearn.tests.test_pipeline", 100),
    Suite("sklearn.model_selection.tests.test_search", 100),
    Suite("sklearn.model_selection.tests.test_validation", 100),
    Suite("sklearn.utils.tests.test_parallel", 10),
    Suite("joblib.test", 500),
]
# Keras has its tests in its package. They need JAX, and some of them packages that are not here.
_OPTIONS = ("-o", "python_files=*_test.py", "--continue-on-collection-errors")
KERAS_SUITES = [
    Suite("keras.src.callbacks", 30, _OPTIONS),
    Suite("keras.src.trainers.trainer_test", 50, _OPTIONS),
]
MLFLOW_SUITES = [
    Suite("tests/tracking/fluent/test_fluent.py", 50),
    Suite("tests/tracking/test_client.py", 50),
]


class Result(NamedTuple):
    """What became of each test, and how many stages there were of each kind."""

    outcomes: dict[str, str]
    stages: dict[str, int]


def run(suite: Suite, folder: Path, *, measured: bool, checkout: str | None = None) -> Result:
    """Run a suite in a process of its own."""
    folder.mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *([checkout] if checkout else [])]),
        "UPSTREAM_OUTCOMES": str(folder / "outcomes.json"),
        "XDG_STATE_HOME": str(folder),
        "XDG_RUNTIME_DIR": str(folder),
    }
    environment.pop("CI", None)
    if measured:
        environment["UPSTREAM_INSTRUMENT"] = "1"
    command = [sys.executable, "-m", "pytest", "-p", "tests.upstream.plugin", "-p", "no:cacheprovider", "-q"]
    (folder / "pytest.ini").write_text("[pytest]\n")
    # The ids of tests are paths from the root on.
    site = ["-c", str(folder / "pytest.ini"), "--rootdir", sysconfig.get_path("purelib"), "--pyargs"]
    where = [*([] if checkout else site), suite.tests]
    done = subprocess.run(
        [*command, *suite.options, *where],
        cwd=checkout or folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    # 1: some tests have failed.
    assert done.returncode in (0, 1), done.stdout[-4000:] + done.stderr[-4000:]
    return Result(**json.loads((folder / "outcomes.json").read_text()))


def compare(suite: Suite, folder: Path, checkout: str | None = None) -> None:
    without = run(suite, folder / "without", measured=False, checkout=checkout)
    measured = run(suite, folder / "measured", measured=True, checkout=checkout)
    assert len(without.outcomes) >= suite.least and not without.stages
    assert sum(measured.stages.values()) > 0 or suite.tests.startswith("joblib")
    differences = {
        test: (without.outcomes.get(test), measured.outcomes.get(test))
        for test in without.outcomes.keys() | measured.outcomes.keys()
        if without.outcomes.get(test) != measured.outcomes.get(test)
    }
    # A test that failed without us, and passes now, is one that fails now and then.
    new = {test: pair for test, pair in differences.items() if pair != ("failed", "passed")}
    assert not new, f"outcomes without and with instrument(): {new}"


def test_a_quick_suite(tmp_path):
    compare(QUICK, tmp_path)


@pytest.mark.upstream
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.tests)
def test_a_suite_of_an_installed_package(tmp_path, suite):
    compare(suite._replace(options=("-n", "auto")), tmp_path)


@pytest.mark.upstream
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("suite", KERAS_SUITES, ids=lambda suite: suite.tests)
def test_a_suite_of_keras(tmp_path, suite, monkeypatch):
    for needed in "torch", "jax":
        pytest.importorskip(needed)
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    pytest.importorskip("keras")
    compare(suite, tmp_path)


@pytest.mark.upstream
@pytest.mark.timeout(7200)
@pytest.mark.skipif(not MLFLOW, reason="CARBON_OTEL_MLFLOW_CHECKOUT names no checkout of MLflow")
@pytest.mark.parametrize("suite", MLFLOW_SUITES, ids=lambda suite: suite.tests)
def test_a_suite_of_mlflow(tmp_path, suite):
    compare(suite, tmp_path, checkout=MLFLOW)

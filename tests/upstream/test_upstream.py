"""Suites that nobody here wrote: what became of each test with `instrument()` is what became of it without.

The long ones run by `pytest -m upstream`. MLflow has no tests in its package: `MLFLOW_CHECKOUT` names
a checkout of the installed version, or a folder with these tests and what they import; XGBoost has none either,
and `XGBOOST_CHECKOUT` names its sources. `-s` shows the durations.
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
from tests.fakes.drawing import Drawing
from tests.fakes.powercap import server

ROOT = Path(carbon_otel.__file__).parents[1]
MLFLOW = os.environ.get("MLFLOW_CHECKOUT")
XGBOOST = os.environ.get("XGBOOST_CHECKOUT")


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
FLUENT = "tests/tracking/fluent/test_fluent.py"
MLFLOW_SUITES = [
    Suite(FLUENT, 50),
    Suite("tests/tracking/test_client.py", 50),
]
XGBOOST_SUITES = [
    Suite("tests/python/test_callback.py", 10),
    Suite("tests/python/test_training_continuation.py", 3),
    Suite("tests/python/test_basic.py", 15),
    Suite("tests/python/test_pickling.py", 1),
]
# The runs in MLflow's suites have figures, and checkpoints all the time.
WITH_FIGURES = {
    "UPSTREAM_STAGES": "1",
    "CARBON_OTEL_INTERVAL_S": "0.05",
    "CARBON_OTEL_CHECKPOINT_INTERVAL_S": "0.1",
}
# They compare all metrics of a run, which has ours as well.
ACCEPTED = {
    f"{FLUENT}::test_get_parent_run",
    f"{FLUENT}::test_last_active_run_returns_most_recently_ended_active_run",
}


class Result(NamedTuple):
    """What became of each test, how long it took, how many stages there were of each kind, and their energy."""

    outcomes: dict[str, str]
    seconds: dict[str, float]
    stages: dict[str, int]
    energy_j: float


def run(suite: Suite, folder: Path, *, measured: bool, checkout: str | None, figures: bool) -> Result:
    """Run a suite in a process of its own, on a host whose package draws 50 W."""
    folder.mkdir()
    host = server(folder / "sys")
    # The checkout is first: it has a package `tests` as well.
    path = [*([checkout] if checkout else []), str(ROOT), str(Path(__file__).parent)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path),
        "CARBON_OTEL_POWERCAP_ROOT": str(host.root),
        "UPSTREAM_OUTCOMES": str(folder / "outcomes.json"),
        "XDG_STATE_HOME": str(folder),
        "XDG_RUNTIME_DIR": str(folder),
    }
    environment.pop("CI", None)
    if measured:
        environment |= {"UPSTREAM_INSTRUMENT": "1", **(WITH_FIGURES if figures else {})}
    command = [sys.executable, "-m", "pytest", "-p", "upstream_plugin", "-p", "no:cacheprovider", "-q"]
    (folder / "pytest.ini").write_text("[pytest]\n")
    # The ids of tests are paths from the root on.
    site = ["-c", str(folder / "pytest.ini"), "--rootdir", sysconfig.get_path("purelib"), "--pyargs"]
    where = [*([] if checkout else site), suite.tests]
    with Drawing(host, zones=1, watts=50):
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


def compare(suite: Suite, folder: Path, checkout: str | None = None, *, figures: bool = False) -> None:
    without = run(suite, folder / "without", measured=False, checkout=checkout, figures=figures)
    measured = run(suite, folder / "measured", measured=True, checkout=checkout, figures=figures)
    assert len(without.outcomes) >= suite.least and not without.stages
    assert measured.energy_j > 0
    assert sum(measured.stages.values()) > 0 or suite.tests.startswith("joblib")
    seconds = [sum(result.seconds.values()) for result in (without, measured)]
    print(
        f"{suite.tests}: {len(measured.outcomes)} tests, {seconds[0]:.0f} s without, {seconds[1]:.0f} s with "
        "instrument()"
    )
    differences = {
        test: (without.outcomes.get(test), measured.outcomes.get(test))
        for test in without.outcomes.keys() | measured.outcomes.keys()
        if without.outcomes.get(test) != measured.outcomes.get(test)
    }
    # A test that failed without us, and passes now, is one that fails now and then.
    new = {
        test: pair
        for test, pair in differences.items()
        if pair != ("failed", "passed") and test not in ACCEPTED
    }
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
@pytest.mark.skipif(not MLFLOW, reason="MLFLOW_CHECKOUT names no checkout of MLflow")
@pytest.mark.parametrize("suite", MLFLOW_SUITES, ids=lambda suite: suite.tests)
def test_a_suite_of_mlflow(tmp_path, suite):
    compare(suite, tmp_path, checkout=MLFLOW, figures=True)


@pytest.mark.upstream
@pytest.mark.timeout(7200)
@pytest.mark.skipif(not XGBOOST, reason="XGBOOST_CHECKOUT names no sources of XGBoost")
@pytest.mark.parametrize("suite", XGBOOST_SUITES, ids=lambda suite: suite.tests)
def test_a_suite_of_xgboost(tmp_path, suite):
    compare(suite, tmp_path, checkout=XGBOOST)

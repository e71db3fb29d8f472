from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import carbon_otel
from tests.fakes import nvml

# Deterministic by default; `--hypothesis-profile=search` looks for what the fixed examples do not show.
_always = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.register_profile("fixed", _always, max_examples=60, derandomize=True, database=None)
settings.register_profile("search", _always, max_examples=1000)
settings.load_profile("fixed")

# MLflow's own habits, not under test: usage reports, a line to stdout at each run's end, and seven processes of
# each server that wait for jobs.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "1")
# It starts uvicorn by its name: the one of this environment, activated or not.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


# `mlflow.set_experiment` says it to children in the environment: to those of the next test, too.
_MLFLOW = ("MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID")


@pytest.fixture(scope="session", autouse=True)
def state_folder(tmp_path_factory):
    """What MLflow has not taken yet is the tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("state")
        patch.setenv("XDG_STATE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory):
    """The compiled stub of libnvidia-ml; on CI a compiler that is not there is a failure, so that it shows."""
    try:
        return nvml.build(tmp_path_factory.mktemp("nvml"))
    except FileNotFoundError:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("gcc is not installed")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory):
    """No test sees the caller's settings, GPUs or other measured processes, and none leaves a session behind."""
    for name in [n for n in os.environ if n.startswith(("CARBON_OTEL_", "OTEL_")) or n in _MLFLOW]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    yield
    carbon_otel.uninstrument()

"""A folder for the commands and the code of the pages: programs to run, and a store with the life of a model."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs.environments import environment, extras_of
from tests.docs.pages import ROOT

TRAIN = """
import carbon_otel

carbon_otel.instrument(zone="FR")
with carbon_otel.stage("training"):
    sum(range(100_000))
"""

# The life of the model `churn`: two runs of 36 J each. Beside it, three repeats of two models in turn, with 4 and
# 2 J for the same samples.
LIFE = """
import mlflow

from tests.docs.prelude import X, carbon_otel, draw, model, settle, y

carbon_otel.instrument(zone="FR")
mlflow.set_experiment("churn")
for accuracy in (0.8, 0.9):
    with mlflow.start_run():
        model.fit(X, y)
        mlflow.log_metric("accuracy", accuracy)
mlflow.set_experiment("quantised")
for name, joules in [("float32", 4), ("int8", 2)] * 3:
    settle()
    with mlflow.start_run(run_name=name):
        with carbon_otel.stage("inference") as stage:
            draw(joules)
            stage.units(samples=len(X))
        mlflow.log_metric("accuracy", 0.9)
assert carbon_otel.flush(timeout=60)
"""


def execute(folder: Path, python: Path, *command: str, **variables: str) -> str:
    """Run a command in the folder, with the scripts beside `python`; its output. Fails if the command does."""
    here = str(Path(sys.executable).parent)
    others = [each for each in os.environ.get("PATH", os.defpath).split(os.pathsep) if each != here]
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(python.parent), *others]),
        "PYTHONPATH": str(ROOT),
        "XDG_STATE_HOME": str(folder / "state"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "LOGFIRE_SEND_TO_LOGFIRE": "false",
        "LOGFIRE_CONSOLE": "false",
        **variables,
    }
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}"
    return done.stdout


@pytest.fixture(scope="session")
def life(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the life of the model `churn`."""
    pytest.importorskip("mlflow")
    folder = tmp_path_factory.mktemp("life")
    execute(folder, Path(sys.executable), sys.executable, "-c", LIFE)
    return folder / "mlflow.db"


@pytest.fixture(scope="session")
def python_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Gives the Python of an environment with exactly the extras that a page names for use, and with `more`."""
    made: dict[tuple[frozenset[str], tuple[str, ...]], Path] = {}

    def find(page: str, *more: str) -> Path:
        wanted = extras_of(page) - {"test"}, more
        if wanted not in made:
            made[wanted] = environment(tmp_path_factory.mktemp("environment"), *wanted)
        return made[wanted]

    return find


@pytest.fixture
def reader(tmp_path: Path, life: Path, python_of: Callable[..., Path]) -> Callable[..., str]:
    """Runs a command in a folder of a reader of a page, whose Python has what the page names and `more`."""
    shutil.copy(life, tmp_path / "mlflow.db")
    (tmp_path / "train.py").write_text(TRAIN)

    def run(page: str, *command: str, more: tuple[str, ...] = ()) -> str:
        return execute(tmp_path, python_of(page, *more), *command)

    return run

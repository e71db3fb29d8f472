"""The quickstarts run as they stand; those of the frameworks in `tests/frameworks/test_quickstarts.py`."""

from __future__ import annotations

import json
import signal
import subprocess
import urllib.request
from contextlib import suppress

import pytest

from tests.docs.pages import PAGES
from tests.docs.quickstarts import FRAMEWORKS, LIGHT, PAGE, kinds, quickstarts, stages, surroundings
from tests.integration import receivers
from tests.integration.processes import free_port, wait_for


@pytest.fixture
def python(python_of):
    """The Python of a reader who has what the page says, and the library that the quickstart is about."""
    return python_of(PAGE, "fastapi", "ipython", "uvicorn")


@pytest.mark.parametrize("name", LIGHT)
def test_a_quickstart(name, tmp_path, python):
    assert LIGHT[name] <= stages(quickstarts()[name], tmp_path, python)


def test_its_run_is_in_mlflow(tmp_path):
    mlflow = pytest.importorskip("mlflow")
    stages(quickstarts()["sklearn_run.py"], tmp_path)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (run,) = client.search_runs(["0"])
    assert run.data.metrics["accuracy"] > 0.9 and run.data.metrics["carbon/energy_wh"] > 0
    assert "carbon/evaluation/energy_wh" in run.data.metrics and run.data.metrics["carbon/accuracy_per_g"] > 0


def test_serving(tmp_path, python):
    pytest.importorskip("fastapi")
    (tmp_path / "serve.py").write_text(quickstarts()["serve.py"].code)
    command, port = quickstarts()["serve.py"].command.split(), free_port()
    rows = urllib.request.Request(
        f"http://127.0.0.1:{port}/predict",
        json.dumps([[5.1, 3.5, 1.4, 0.2]] * 20).encode(),
        {"Content-Type": "application/json"},
    )

    def answered() -> bool:
        with suppress(OSError), urllib.request.urlopen(rows, timeout=60) as answer:
            return json.load(answer) == [0] * 20
        return False

    with surroundings(tmp_path, python) as environment:
        server = subprocess.Popen(
            [python, "-m", *command, "--port", str(port)], cwd=tmp_path, env=environment
        )
        try:
            wait_for(answered)
            server.send_signal(signal.SIGINT)
            assert server.wait(60) == 0
        finally:
            server.kill()
            server.wait()
    assert {"training", "inference"} <= kinds(tmp_path)


NOTEBOOK = """
import sys
from IPython.core.interactiveshell import InteractiveShell
from tests.docs.pages import PAGES

shell = InteractiveShell.instance()
for block in PAGES["examples/README.md"].blocks("ipython"):
    shell.run_cell(block.code).raise_error()
"""


def test_a_notebook(tmp_path, python):
    with surroundings(tmp_path, python) as environment:
        done = subprocess.run(
            [python, "-c", NOTEBOOK],
            cwd=tmp_path,
            env={**environment, "CARBON_OTEL_ZONE": "FR", "IPYTHONDIR": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=280,
        )
    assert done.returncode == 0, done.stderr
    assert "training" in done.stdout and "mg CO2e" in done.stdout
    assert "training" in kinds(tmp_path)


def test_a_collector(tmp_path, python):
    (tmp_path / "sklearn_run.py").write_text(quickstarts()["sklearn_run.py"].code)
    (block,) = [each for each in PAGES[PAGE].blocks("bash") if "collector check" in each.code]
    with receivers.serving(receivers.Receiver) as sink, surroundings(tmp_path, python) as environment:
        code = block.code.replace("http://127.0.0.1:4318", sink.url)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", code],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            timeout=280,
        )
        assert done.returncode == 0, done.stderr
        assert {"RandomForestClassifier.fit", "RandomForestClassifier.score"} <= {
            s.name for s in sink.spans()
        }
        assert sink.metrics()


def test_every_quickstart_has_a_test():
    assert quickstarts().keys() == {*LIGHT, *FRAMEWORKS, "serve.py"}


def test_the_page_has_all_that_it_promises():
    for title in ("Notebook", "Kubernetes", "A collector", "Questions", "Glossary"):
        assert PAGES[PAGE].section(title)

"""The quickstarts of `examples/README.md`: a file, and the command below it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.docs.pages import PAGES, ROOT, Block
from tests.fakes.drawing import Drawing
from tests.fakes.powercap import server

PAGE = "examples/README.md"
HERE = Path(sys.executable)
# The stages that each file has by itself; the light ones need nothing but the extras.
LIGHT: Mapping[str, set[str]] = {"sklearn_run.py": {"training", "evaluation"}, "logfire_run.py": {"training"}}
FRAMEWORKS: Mapping[str, set[str]] = {
    "torch_run.py": {"training", "evaluation"},
    "lightning_run.py": {"training"},
    "transformers_run.py": {"training", "evaluation"},
    "xgboost_run.py": {"data_processing", "training", "inference"},
    "ranks_run.py": {"training"},
}


@dataclass(frozen=True)
class Quickstart:
    """`name` is that of the file; `command` starts it."""

    name: str
    code: str
    command: str


def quickstarts() -> dict[str, Quickstart]:
    """All of them, by the names of their files."""
    found: dict[str, Quickstart] = {}
    file: Block | None = None
    for block in PAGES[PAGE].blocks():
        if block.language == "python":
            file = block
        elif file is not None:
            name = file.first_line.removeprefix("# ")
            found[name] = Quickstart(name, file.code, block.code)
            file = None
    return found


@contextlib.contextmanager
def surroundings(folder: Path, python: Path = HERE) -> Iterator[dict[str, str]]:
    """The environment of a reader in the folder, whose machine has a counter that draws 50 W."""
    with Drawing(server(folder / "sys"), zones=1, watts=50) as drawing:
        yield {
            **os.environ,
            "PATH": os.pathsep.join([str(python.parent), os.environ.get("PATH", os.defpath)]),
            "PYTHONPATH": str(ROOT),
            "CARBON_OTEL_POWERCAP_ROOT": str(drawing.root),
            "CARBON_OTEL_JOURNAL": str(folder / "journal.json"),
            "CARBON_OTEL_RUNTIME_DIR": str(folder),
            "XDG_STATE_HOME": str(folder / "state"),
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
            "LOGFIRE_CONSOLE": "false",
            "LOGFIRE_SEND_TO_LOGFIRE": "false",
            "CUDA_VISIBLE_DEVICES": "",
        }


def stages(start: Quickstart, folder: Path, python: Path = HERE) -> set[str]:
    """Write the file, run its command, and give the kinds of stage in the journal."""
    (folder / start.name).write_text(start.code)
    with surroundings(folder, python) as environment:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", start.command],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=280,
        )
    assert done.returncode == 0, done.stdout
    assert "Traceback" not in done.stdout, done.stdout
    return kinds(folder)


def kinds(folder: Path) -> set[str]:
    """The kinds of stage in the journal, which has energy. A stage below a step of the counter may have none."""
    footprint = json.loads((folder / "journal.json").read_text("utf-8"))["footprint"]
    assert footprint["energy_j"] > 0
    return set(footprint["stages"])

"""The packages and the imports between them: data flows down this table, and imports run only up.

A package or module (a room) may import the rooms listed beside it, which are above it in the table, so there is no
circle. `CONTRIBUTING.md` explains the rooms.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import carbon_otel

PACKAGE = Path(carbon_otel.__file__).parent

# Each room is a module or a folder; the longest name that fits a module is its room.
BASE = (
    "text units quantities clock provenance guard fork background handover ranks serial private_files descriptors "
    "batch_job keywords _version"
)
CORE = f"{BASE} sensors.base records carbon footprint sinks"
ROOMS = {
    "_version": "",
    "text": "",
    "units": "",
    "quantities": "units",
    "clock": "",
    "guard": "text",
    "fork": "clock guard",
    "provenance": "units",
    "handover": "",
    "ranks": "fork",
    "background": "guard fork",
    "serial": "guard fork",
    "private_files": "",
    "descriptors": "",
    "batch_job": "ranks",
    "keywords": "",
    # What the hardware says.
    "sensors.base": "provenance units",
    "sensors": "sensors.base provenance units clock guard fork descriptors",
    # The records that cross rooms, and the figures computed from them.
    "records": "sensors.base provenance units",
    "carbon": "provenance units",
    # What notebooks show of a value.
    "notebook.card": "text quantities",
    "frames": "",
    "footprint": "records carbon provenance units quantities notebook.card frames",
    "sinks": "footprint records guard",
    "remote": "records carbon units",
    # The grid by the hour.
    "intensity": "_version text clock guard carbon provenance units quantities private_files",
    "config": "text sensors carbon intensity units private_files",
    "life": "carbon sensors config provenance",
    # One timeline per device, and this process's share of it.
    "host": f"{BASE} sensors sensors.base records",
    "meter": f"{BASE} sensors.base records",
    # The open stages, and their energy.
    "termination": "clock fork guard descriptors",
    "runtime": "clock guard fork config footprint sinks termination",
    "stages": f"{CORE} meter runtime",
    # The destinations of the figures.
    "semconv": "footprint ranks records",
    "journal": CORE,
    "live": f"{CORE} host",
    "otel": f"{CORE} semconv",
    "instrumentation": "clock units quantities guard fork background handover ranks stages runtime termination",
    "mlflow": "",
    "mlflow.compat": "fork",
    "mlflow.schema": f"{CORE} intensity mlflow.compat",
    "mlflow.otlp_redirect": "guard",
    "mlflow.delivery": f"{CORE} mlflow.schema mlflow.compat",
    "mlflow.traces": f"{CORE} semconv mlflow.compat",
    "mlflow.runs": f"{CORE} host stages instrumentation mlflow.schema mlflow.delivery mlflow.compat "
    "mlflow.otlp_redirect",
    "mlflow.standalone": f"{CORE} stages instrumentation mlflow.schema mlflow.delivery mlflow.runs mlflow.compat",
    "mlflow.integration": f"{CORE} config host stages runtime instrumentation mlflow.schema mlflow.delivery "
    "mlflow.runs mlflow.standalone mlflow.traces mlflow.compat",
    # The cost of a model: a reader of stores, which knows no sink.
    "lifecycle": "carbon intensity provenance units quantities records notebook.card frames footprint "
    "mlflow.schema mlflow.compat",
    # Its reports as HTML.
    "pages": "_version text quantities units lifecycle",
    # Energy and carbon before the run: a reader of tables and stores, which knows no sensor and no sink.
    "forecast": "carbon provenance units quantities records notebook.card footprint clock private_files lifecycle "
    "mlflow.schema mlflow.compat",
    # What to do about the figures: a reader, too.
    "advice": "units quantities records intensity lifecycle forecast mlflow.schema",
    "compat": "footprint units",
    # The place of this measurement.
    "here": "guard carbon config host",
    # The composition root.
    "session": f"{CORE} here life intensity config host sensors meter stages otel remote journal live "
    "instrumentation runtime",
    "foresight": f"{CORE} here config sensors runtime stages forecast mlflow.compat",
    # The commands of IPython.
    "notebook": "guard carbon records footprint notebook.card runtime stages",
    "questions": "clock guard keywords config intensity lifecycle advice",
    "__init__": f"{CORE} config runtime stages session forecast foresight questions lifecycle notebook",
    # CodeCarbon's trackers, over the public interface.
    "compat.codecarbon": "__init__ compat carbon config footprint fork guard private_files provenance records "
    "runtime sinks stages units",
    # The entry points.
    "entry_points": f"{CORE} here __init__ config runtime sensors stages instrumentation otel",
    "cli": f"{CORE} here __init__ intensity config instrumentation sensors meter host runtime lifecycle pages "
    "forecast advice compat otel semconv stages mlflow.compat mlflow.schema mlflow.runs mlflow.delivery",
    "__main__": "cli",
}
# The rooms that read hardware; all others know only `sensors.base`.
HEAVY = ("mlflow", "grpc", "typer", "rich", "sqlite3", "logfire", "pandas", "numpy", "sklearn", "IPython")


def modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        if "_examples" in path.parts or "site" in path.parts:
            continue  # programs that are run, not imported
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        found[name if name == "__init__" else name.removesuffix(".__init__")] = path
    return found


MODULES = modules()


def room_of(module: str) -> str:
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        if name in ROOMS:
            return name
    raise AssertionError(f"{module} is in no room: add it to ROOMS, or move it")


def imports(path: Path) -> Iterator[str]:
    """Modules of this package that a file imports, including lazy imports and imports for types."""
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            package, _, module = name.partition(".")
            if package == "carbon_otel":
                while module and module not in MODULES:
                    module = module.rpartition(".")[0]
                yield module or "__init__"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_every_import_is_an_arrow_of_the_table(module):
    room = room_of(module)
    allowed = set(ROOMS[room].split())
    wrong = {other for other in map(room_of, imports(MODULES[module])) if other != room} - allowed
    assert not wrong, f"{module} (room {room}) must not know {', '.join(sorted(wrong))}"


def test_every_arrow_of_the_table_runs_up():
    order = list(ROOMS)
    for room, known in ROOMS.items():
        for other in known.split():
            assert order.index(other) < order.index(room), f"{room} -> {other} runs down"


def test_the_table_has_no_room_and_no_arrow_too_many():
    used: dict[str, set[str]] = {room: set() for room in ROOMS}
    for module, path in MODULES.items():
        used[room_of(module)] |= set(map(room_of, imports(path)))
    inhabited = {room_of(module) for module in MODULES}
    assert set(ROOMS) == inhabited


@pytest.mark.parametrize("module", sorted(name for name in MODULES if room_of(name) == "cli"))
def test_the_commands_print_through_one_module(module):
    """`cli.output` hides secrets and escapes; a test that greps outputs cannot meet every line of a command."""
    if module == "cli.output":
        return
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        assert name not in ("print", "typer.echo", "typer.secho", "click.echo", "Console"), (
            f"{module}: {name}"
        )
        if isinstance(node, ast.ImportFrom | ast.Attribute | ast.Import):
            text = ast.unparse(node)
            assert "rich.console" not in text and "rich.markup" not in text and "sys.std" not in text, text


def test_measuring_imports_no_backend_and_no_command_line():
    program = (
        "import sys, carbon_otel\n"
        "carbon_otel.instrument(zone='FR')\n"
        "with carbon_otel.stage('training'): pass\n"
        "carbon_otel.uninstrument()\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & set(HEAVY)
    rooms = ("carbon_otel.mlflow", "carbon_otel.cli", "carbon_otel.notebook")
    assert not [name for name in loaded if name.startswith(rooms)]

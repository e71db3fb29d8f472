"""`%carbon` and `%%carbon` in a real shell of IPython: each cell is a stage, however it ends, and all adds up."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from traitlets.config import Config

import carbon_otel
from carbon_otel import runtime
from carbon_otel.footprint.shown import BETWEEN_CELLS
from carbon_otel.notebook.totals import Totals
from carbon_otel.records import UNATTRIBUTED
from carbon_otel.stages.open_stage import current
from tests.fakes.drawing import Drawing
from tests.fakes.powercap import server

ROOT = Path(carbon_otel.__file__).parents[1]


class Notebook:
    """A shell with the extension; the stages that its cells show are in `shown`, by output."""

    def __init__(self) -> None:
        config = Config()
        config.HistoryManager.enabled = False
        config.InteractiveShell.colors = "nocolor"
        InteractiveShell.clear_instance()
        self.shell = InteractiveShell.instance(config=config)
        self.text = self.html = ""
        self.values: list[str] = []

    def run(self, *lines: str) -> object:
        """Run a cell; its last value. `text` has what it prints, and `html` what it shows."""
        with capture_output() as out:
            self.result = self.shell.run_cell("\n".join(lines), store_history=True)
        self.text = out.stdout + out.stderr
        self.values = [each.data["text/plain"] for each in out.outputs]
        self.html = "".join(each.data["text/html"] for each in out.outputs)
        return self.result.result

    @property
    def stages(self) -> list[str]:
        """The lines of the stages that the last cell has shown."""
        return [value for value in self.values if value.startswith("Stage(")]

    def totals(self) -> Totals:
        found = self.run("%carbon")
        assert isinstance(found, Totals)
        return found


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A package of 50 W."""
    with Drawing(server(tmp_path / "sys"), zones=1, watts=50) as drawing:
        monkeypatch.setenv("CARBON_OTEL_POWERCAP_ROOT", str(drawing.root))
        monkeypatch.setenv("CARBON_OTEL_ZONE", "FR")
        yield drawing
        carbon_otel.uninstrument()


@pytest.fixture
def notebook(host):
    made = Notebook()
    made.run("%load_ext carbon_otel")
    yield made
    made.run("%unload_ext carbon_otel")
    InteractiveShell.clear_instance()


def joules(kind: str) -> float:
    stages = carbon_otel.footprint().stages
    return stages[kind].energy_j if kind in stages else 0.0


def adds_up() -> bool:
    whole = carbon_otel.footprint()
    return sum(cost.energy_j for cost in whole.stages.values()) == pytest.approx(whole.energy_j, rel=1e-9)


def test_a_cell_is_a_stage(notebook):
    value = notebook.run(
        "%%carbon training forest --units samples=len(X)",
        "import time",
        "X = list(range(500))",
        "time.sleep(0.1)",
        "'the value of the cell'",
    )
    assert value == "the value of the cell"
    (line,) = notebook.stages
    assert line.startswith("Stage('training', 'forest', ") and "100% measured" in line
    assert "training: forest" in notebook.html and "for each of 500 samples" in notebook.html
    assert joules("training") > 0 and adds_up()
    assert current.get() is None


def test_the_first_cell_begins_the_measurement_and_says_so_once(notebook):
    assert runtime.begun() is None
    notebook.run("%%carbon training", "1")
    assert runtime.begun() is not None
    assert "carbon_otel measures this session from here on" in notebook.text
    notebook.run("%%carbon training", "1")
    assert "carbon_otel" not in notebook.text


def test_a_measurement_that_runs_is_used(notebook):
    notebook.run("import carbon_otel", "carbon_otel.instrument(zone='DE')")
    running = runtime.begun()
    notebook.run("%%carbon training", "1")
    assert runtime.begun() is running and "carbon_otel" not in notebook.text


def test_switched_off(notebook, monkeypatch):
    monkeypatch.setenv("CARBON_OTEL_DISABLED", "true")
    assert notebook.run("%%carbon training", "1 + 1") == 2
    assert "switched off by CARBON_OTEL_DISABLED" in notebook.text


@pytest.mark.parametrize(
    ("body", "error"), [("1 / 0", ZeroDivisionError), ("raise KeyboardInterrupt", KeyboardInterrupt)]
)
def test_an_error_ends_the_stage(notebook, body, error):
    notebook.run("%%carbon training --units samples=evaluated.append(1)", "evaluated = []", body)
    assert isinstance(notebook.result.error_in_exec, error)
    assert error.__name__ in notebook.text and notebook.shell.user_ns["evaluated"] == []
    assert len(notebook.stages) == 1 and "open" not in notebook.stages[0]
    assert current.get() is None
    before = joules("training")
    notebook.run("import time; time.sleep(0.05)")
    assert joules("training") == before


def test_the_traceback_has_the_lines_of_the_cell(notebook):
    notebook.run("%%carbon training", "one = 1", "two = 1 / 0")
    assert "----> 3 two = 1 / 0" in notebook.text


def test_await_at_the_top_level(notebook):
    value = notebook.run(
        "%%carbon training",
        "import asyncio, carbon_otel",
        "async def child():",
        "    with carbon_otel.stage('evaluation') as stage:",
        "        await asyncio.sleep(0.05)",
        "    return stage",
        "stages = await asyncio.gather(child(), child())",
        "len(stages)",
    )
    assert value == 2 and len(notebook.stages) == 1
    assert joules("evaluation") > 0 and adds_up()


def test_an_interrupted_await_has_no_result(notebook):
    """A kernel cancels the task of such a cell, and tells its end with None, outside of the task."""
    shell = notebook.shell
    shell.events.trigger("pre_run_cell", None)
    shell.run_line_magic("carbon", "--begin training")
    with capture_output() as out:
        shell.events.trigger("post_run_cell", None)
    assert out.outputs[0].data["text/plain"].startswith("Stage('training', ")
    assert current.get() is None


def test_a_cell_that_runs_again_adds_up(notebook):
    notebook.run("%%carbon training", "import time; time.sleep(0.05)")
    first = joules("training")
    notebook.run("%%carbon training", "import time; time.sleep(0.05)")
    assert joules("training") > first > 0 and adds_up()


def test_two_stages_of_a_cell_are_nested(notebook):
    assert notebook.run("%%carbon training outer", "%%carbon evaluation inner", "6 * 7") == 42
    assert [line.partition(", ")[0] for line in notebook.stages] == ["Stage('evaluation'", "Stage('training'"]


@pytest.mark.parametrize("magics", [("%%carbon training", "%%time"), ("%%time", "%%carbon training")])
def test_with_another_magic(notebook, magics):
    notebook.run(*magics, "name = 6 * 7")
    assert notebook.shell.user_ns["name"] == 42
    assert "Wall time" in notebook.text and len(notebook.stages) == 1


def test_a_cell_within_a_cell(notebook):
    notebook.run(
        "%%carbon training outer",
        "get_ipython().run_cell('%%carbon evaluation inner\\ninner = 1')",
        "get_ipython().run_cell('')",
        "get_ipython().run_cell_magic('carbon', 'inference direct', 'direct = 2')",
        "outer = inner + direct",
    )
    assert notebook.shell.user_ns["outer"] == 3
    assert [line.split("'")[1] for line in notebook.stages] == ["evaluation", "inference", "training"]
    assert current.get() is None and adds_up()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("%%carbon", "the kind of the stage is missing; write one of data_processing, training"),
        ("%%carbon --units samples=1", "the kind of the stage is missing"),
        ("%%carbon 9x", "stage kind '9x': write one of data_processing, training"),
        ("%%carbon run", "used by carbon_otel itself"),
        ("%%carbon training --unit samples=1", "the only option is --units"),
        ("%%carbon training --units", "such as --units samples=len(X)"),
        ("%%carbon training --units 3", "such as --units samples=len(X)"),
        ("%%carbon training --units samples=len(", "such as --units samples=len(X)"),
        ("%%carbon training --units **samples", "write a plain name"),
    ],
)
def test_a_wrong_line_says_what_to_write_and_runs_nothing(notebook, line, message):
    notebook.run(line, "ran = True")
    assert message in notebook.text and "usage: %%carbon KIND [NAME] [--units samples=N]" in notebook.text
    assert "ran" not in notebook.shell.user_ns and "Traceback" not in notebook.text
    assert runtime.begun() is None


@pytest.mark.parametrize(
    "units",
    [
        "samples=len(X), epochs=2",
        "samples=len(X) epochs=2",
        "samples=sum(1 for x in X if x >= 0), epochs = 2",
    ],
)
def test_units(notebook, units):
    notebook.run(f"%%carbon training --units {units}", "X = [1, 2, 3]", "import time; time.sleep(0.05)")
    assert "for each of 3 samples" in notebook.html and "for each of 2 epochs" in notebook.html


@pytest.mark.parametrize("unit", ["samples=nowhere", "samples=-1", "samples='many'", "samples=float('nan')"])
def test_units_without_a_value_leave_the_stage(notebook, unit):
    assert notebook.run(f"%%carbon training --units {unit}", "6 * 7") == 42
    assert "%%carbon: --units: " in notebook.text and len(notebook.stages) == 1


def test_variables_in_the_name(notebook):
    notebook.run("depth = 3")
    notebook.run("%%carbon training depth $depth", "1")
    assert "'depth 3'" in notebook.stages[0]


def test_totals_name_the_time_between_cells(notebook):
    notebook.run("%%carbon training", "import time; time.sleep(0.1)")
    time.sleep(0.4)
    totals = notebook.totals()
    stages, whole = totals.footprint.stages, carbon_otel.footprint()
    assert sum(cost.energy_j for cost in stages.values()) == pytest.approx(
        totals.footprint.energy_j, rel=1e-9
    )
    outside = stages[BETWEEN_CELLS].energy_j + stages[UNATTRIBUTED].energy_j
    assert 0 < stages[BETWEEN_CELLS].energy_j < outside <= whole.stages[UNATTRIBUTED].energy_j
    made = totals.footprint.embodied
    if made is not None:
        assert sum(made.by_kind.values()) == pytest.approx(made.g, rel=1e-6)
    assert re.search(r"^  between cells +[\d.]+ m?J +[\d.]+ .?g CO2e +\d+%$", repr(totals), re.MULTILINE)
    html = totals._repr_html_()
    assert html is not None and "between cells" in html and "This session so far" in html
    assert BETWEEN_CELLS in [row["stage"] for row in totals.rows()]


def test_what_a_thread_does_between_cells_is_its_own(notebook):
    notebook.run(
        "import carbon_otel, threading, time",
        "carbon_otel.instrument()",
        "def work():",
        "    with carbon_otel.stage('training'):",
        "        time.sleep(0.4)",
        "thread = threading.Thread(target=work); thread.start()",
    )
    notebook.shell.user_ns["thread"].join()
    stages = notebook.totals().footprint.stages
    # 50 W for 0.4 s; a reading at an edge may be extrapolated.
    assert stages["training"].energy_j > 0.8 * 20 and BETWEEN_CELLS in stages


def test_another_measurement_begins_its_own_totals(notebook):
    notebook.run("%%carbon training", "import time; time.sleep(0.05)")
    time.sleep(0.1)
    notebook.run("import carbon_otel", "carbon_otel.uninstrument()")
    assert "Nothing is measured yet" in repr(notebook.totals())
    notebook.run("%%carbon evaluation", "1")
    whole = notebook.totals().footprint
    assert "training" not in whole.stages
    assert sum(cost.energy_j for cost in whole.stages.values()) == pytest.approx(whole.energy_j, rel=1e-9)


def test_a_line_with_an_argument(notebook):
    notebook.run("%carbon training")
    assert "%carbon takes no argument; %%carbon training measures a cell" in notebook.text


def test_help(notebook):
    assert "--units samples=len(X)" in str(notebook.shell.object_inspect("%carbon")["docstring"])


def test_a_terminal_waits_for_the_rest_of_the_cell(notebook):
    assert notebook.shell.check_complete("%%carbon training\n")[0] == "incomplete"


def test_reload_and_unload(notebook):
    notebook.run("%reload_ext carbon_otel")
    notebook.run("%%carbon training", "1")
    assert len(notebook.stages) == 1
    notebook.run("%%carbon training", "%unload_ext carbon_otel")
    assert len(notebook.stages) == 1, "a stage that is open then ends"
    notebook.run("%%carbon training", "1")
    assert "Cell magic `%%carbon` not found" in notebook.text
    assert carbon_otel.notebook.magics.transformed not in (
        notebook.shell.input_transformer_manager.line_transforms
    )
    notebook.run("%load_ext carbon_otel")


def test_nothing_of_the_shell_is_left_in_the_users_names(notebook):
    before = set(notebook.shell.user_ns)
    notebook.run("%%carbon training", "pass")
    assert {name for name in set(notebook.shell.user_ns) - before if not name.startswith("_")} == set()


def test_in_a_terminal(tmp_path):
    """The program `ipython` shows a line in place of HTML."""
    script = tmp_path / "cells.ipy"
    script.write_text(
        "%load_ext carbon_otel\n"
        "get_ipython().run_cell('%%carbon training forest\\nsum(range(1000))')\n"
        "print(repr(get_ipython().run_line_magic('carbon', '')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "IPython", "--no-banner", "--colors=nocolor", str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "IPYTHONDIR": str(tmp_path), "CARBON_OTEL_ZONE": "FR"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^Stage\('training', 'forest', ", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^  training ", done.stdout, re.MULTILINE)

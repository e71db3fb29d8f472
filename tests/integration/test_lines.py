"""What a program says of its measurement, in two lines, and the file where nothing else gets the figures.

The programs run as a user starts them: without pytest in their environment, over a counter that grows by 20 W.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.environments import without_settings
from tests.integration.processes import wait_for

ROOT = Path(__file__).parents[2]
WORK = """
import os, time
from pathlib import Path
def joules():
    return int(Path(os.environ["COUNTER"]).read_text()) / 1e6
def work(amount=5):
    before = joules()
    while joules() < before + amount:
        time.sleep(0.01)
"""
BEGIN = "import carbon_otel\ncarbon_otel.instrument(zone='FR')\n"
STAGE = "with carbon_otel.stage('training'):\n    work()\n"
STARTS = "carbon_otel: measures cpu and memory by hardware counter (package-0, "
ENDS = re.compile(r"carbon_otel: .+ \(.+ to .+\) and .+g \(.+ to .+\) CO2e, grid FR, in .+; \d+% measured")


class User:
    """A fresh folder, and the environment of somebody who has set nothing."""

    def __init__(self, folder: Path, drawing) -> None:
        self.folder = folder / "work"
        self.folder.mkdir()
        self.environment = without_settings("PYTEST_", "MLFLOW_") | {
            "CARBON_OTEL_POWERCAP_ROOT": str(drawing.root),
            "COUNTER": str(drawing.root / "intel-rapl:0" / "energy_uj"),
            "XDG_STATE_HOME": str(folder / "state"),
            "PYTHONPATH": str(ROOT),
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }

    def start(self, program: str, *command: str, **options) -> subprocess.Popen:
        (self.folder / "program.py").write_text(WORK + program)
        variables = options.pop("variables", {})
        return subprocess.Popen(
            [*(command or (sys.executable,)), "program.py"],
            cwd=self.folder,
            env={**self.environment, **variables},
            text=True,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
        )

    def run(self, program: str, *command: str, code: int = 0, **variables: str) -> list[str]:
        """The lines on standard error, without those about the devices of the fake tree that stand still."""
        process = self.start(program, *command, variables=variables)
        _, errors = process.communicate(timeout=280)
        assert process.returncode == code, errors
        return [line for line in errors.splitlines() if "could not be read" not in line]

    @property
    def files(self) -> list[Path]:
        return sorted((self.folder / "carbon-otel").glob("*"))

    @property
    def kept(self) -> dict:
        (file,) = self.files
        return json.loads(file.read_text())


@pytest.fixture
def user(tmp_path, drawing):
    return User(tmp_path, drawing)


def test_a_program_says_what_is_measured_and_what_it_was_and_names_the_file(user):
    first, last = user.run(BEGIN + STAGE)
    assert first.startswith(STARTS) and first.endswith("else to a file in the folder carbon-otel")
    assert ENDS.match(last)
    (file,) = user.files
    assert last.endswith(f"look at carbon-otel/{file.name}")
    assert user.kept["status"] == "final" and user.kept["footprint"]["stages"]["training"]["energy_j"] > 4
    assert '\n  "energy_j": ' in file.read_text(), "people read the file: each figure has a line"
    assert file.stat().st_mode & 0o777 == 0o600


def test_uninstrument_is_the_end_and_the_exit_says_nothing_more(user):
    lines = user.run(
        BEGIN + STAGE + "carbon_otel.uninstrument()\nimport sys\nprint('later', file=sys.stderr)"
    )
    assert len(lines) == 3 and ENDS.match(lines[1]) and lines[2] == "later"


def test_each_measurement_of_a_process_has_its_lines_and_its_file(user):
    lines = user.run(BEGIN + STAGE + "carbon_otel.uninstrument()\n" + BEGIN + STAGE)
    assert [bool(ENDS.match(line)) for line in lines] == [False, True, False, True]
    assert len(user.files) == 2


def test_a_later_call_says_nothing(user):
    assert len(user.run(BEGIN + BEGIN + STAGE + BEGIN)) == 2


QUIET = {
    "by its argument": (
        "import carbon_otel\ncarbon_otel.instrument(zone='FR', announce=False)\n" + STAGE,
        {},
    ),
    "by its variable": (BEGIN + STAGE, {"CARBON_OTEL_ANNOUNCE": "false"}),
    "under pytest": (BEGIN + STAGE, {"PYTEST_CURRENT_TEST": "test_x.py::test_x"}),
    "another rank": (BEGIN + STAGE, {"RANK": "1", "WORLD_SIZE": "2"}),
}


@pytest.mark.parametrize("case", QUIET)
def test_where_nobody_wants_to_hear_there_is_no_line(case, user):
    program, variables = QUIET[case]
    assert user.run(program, **variables) == []
    assert user.files == []


def test_a_setting_turns_off_the_end_too(user):
    lines = user.run(BEGIN + STAGE + "carbon_otel.instrument(announce=False)\n")
    assert len(lines) == 1 and user.files == []


def test_a_library_puts_nothing_on_the_terminal_and_no_file_anywhere(user):
    (user.folder / "library.py").write_text(BEGIN)
    assert user.run("import carbon_otel, library\n" + STAGE) == []
    assert user.files == []


def test_the_lines_go_through_logging_where_it_is_configured(user):
    configured = (
        "import logging\nlogging.basicConfig(level='INFO', format='%(levelname)s %(name)s|%(message)s')\n"
    )
    first, last = user.run(configured + BEGIN + STAGE)
    assert first.startswith("INFO carbon_otel|measures cpu") and last.startswith("INFO carbon_otel|")
    (user.folder / "library.py").write_text(BEGIN)
    assert len(user.run(configured + "import carbon_otel, library\n" + STAGE)) == 2


def test_no_handler_stays_behind(user):
    user.run(
        BEGIN + "import logging\nassert not logging.getLogger('carbon_otel').handlers + logging.root.handlers"
    )


def test_a_program_that_ends_at_once_has_no_end_to_tell_of(user):
    assert len(user.run(BEGIN, CARBON_OTEL_INTERVAL_S="30")) == 1
    assert user.files == []


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_are_silent_whatever_they_call(method, user):
    program = """
import carbon_otel, multiprocessing
def in_worker():
    carbon_otel.instrument(zone="FR")
    with carbon_otel.stage("training"):
        work()
if __name__ == "__main__":
    carbon_otel.instrument(zone="FR")
    process = multiprocessing.get_context("METHOD").Process(target=in_worker)
    process.start()
    process.join()
    assert process.exitcode == 0
    with carbon_otel.stage("training"):
        work()
"""
    assert len(user.run(program.replace("METHOD", method))) == 2
    assert len(user.files) == 1


@pytest.mark.parametrize("options", [[], ["--children"], ["--stage", "whole"]])
def test_under_run_there_is_the_table_alone(options, user):
    command = [sys.executable, "-m", "carbon_otel.cli", "run", "--zone", "FR", *options, "--", sys.executable]
    lines = user.run(BEGIN + STAGE, *command)
    assert not any(line.startswith(STARTS) or ENDS.match(line) for line in lines)
    assert any("measured (measured.counter)" in line for line in lines)
    assert user.files == []


def test_opentelemetry_instrument_puts_nothing_on_the_terminal(user):
    command = [str(Path(sys.executable).with_name("opentelemetry-instrument")), sys.executable]
    none = {f"OTEL_{signal}_EXPORTER": "none" for signal in ("TRACES", "METRICS", "LOGS")}
    assert user.run("import carbon_otel\n" + STAGE, *command, CARBON_OTEL_ZONE="FR", **none) == []
    assert user.files == []


class TestWhereItGoes:
    def test_a_journal(self, user):
        first, last = user.run(BEGIN + STAGE, CARBON_OTEL_JOURNAL="j.json")
        assert first.endswith("the figures go to the journal j.json")
        assert last.endswith("look at the journal j.json")
        assert user.files == []

    def test_a_collector(self, user, sink):
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": sink.url.replace("//", "//a-secret-token@")}
        first, last = user.run(BEGIN + STAGE, **variables)
        shown = sink.url.replace("//", "//***@")
        assert first.endswith(f"the figures go to OTLP ({shown})") and last.endswith(
            f"look at OTLP ({shown})"
        )
        assert user.files == []

    def test_the_providers_of_the_program_also_if_it_sets_them_later(self, user):
        program = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
{0}trace.set_tracer_provider(TracerProvider())
{1}
"""
        first, last = user.run(program.format("", BEGIN + STAGE))
        assert first.endswith("the figures go to the OpenTelemetry providers of the program")
        assert last.endswith("look at the OpenTelemetry providers of the program")
        first, last = user.run(program.format(BEGIN + "work(30)\n", STAGE))
        assert first.endswith("else to a file in the folder carbon-otel")
        assert last.endswith("look at the OpenTelemetry providers of the program")
        assert not (user.folder / "carbon-otel").exists()  # it was there until there was something better

    def test_mlflow(self, user, empty_store):
        pytest.importorskip("mlflow")
        runs = "for name in names:\n    with mlflow.start_run(run_name=name):\n        work()\n"
        program = "import mlflow\nnames = {}\n" + BEGIN + runs
        uri = empty_store.copy(user.folder)
        lines = user.run(program.format("['forest']"), MLFLOW_TRACKING_URI=uri)
        first, last = [line for line in lines if line.startswith("carbon_otel: ")]
        assert f"the figures go to MLflow runs ({uri}), else to a file in the folder carbon-otel" in first
        assert last.endswith(f"look at run forest in MLflow ({uri})")
        last = user.run(program.format("['forest', 'tree']"), MLFLOW_TRACKING_URI=uri)[-1]
        assert last.endswith(f"look at 2 runs in MLflow ({uri})")
        assert user.files == []

    def test_mlflow_that_is_imported_and_has_no_run(self, user):
        pytest.importorskip("mlflow")
        last = user.run("import mlflow\n" + BEGIN + STAGE)[-1]
        (file,) = user.files
        assert last.endswith(f"look at carbon-otel/{file.name}")

    def test_mlflow_gets_stages_of_a_lineage_without_a_run(self, user, empty_store):
        pytest.importorskip("mlflow")
        uri = empty_store.copy(user.folder)
        program = "import mlflow\n" + BEGIN + STAGE
        last = user.run(program, MLFLOW_TRACKING_URI=uri, CARBON_OTEL_LINEAGE="churn")[-1]
        assert last.endswith(f"look at MLflow ({uri})")
        assert user.files == []

    def test_the_file_of_a_tracker_of_codecarbon(self, user):
        program = """
from carbon_otel.compat.codecarbon import EmissionsTracker
with EmissionsTracker(country_iso_code="FRA"):
    work()
"""
        _, last = user.run(program)
        assert ENDS.match(last) and last.endswith("look at emissions.csv")
        assert user.files == []


class TestFile:
    def test_a_folder_that_cannot_be_written(self, user):
        user.folder.joinpath("carbon-otel").touch()
        last = user.run(BEGIN + STAGE)[-1]
        (file,) = (user.folder.parent / "state" / "carbon_otel" / "carbon-otel").iterdir()
        assert last.endswith(f"look at {file}")

    def test_no_folder_at_all(self, user):
        user.folder.joinpath("carbon-otel").touch()
        user.folder.parent.joinpath("no").touch()
        lines = user.run(BEGIN + STAGE, CARBON_OTEL_STATE_DIR=str(user.folder.parent / "no"))
        assert "the figures are kept nowhere" in lines[1]
        assert ENDS.match(lines[2]) and lines[2].endswith("measured")

    def test_a_program_that_changes_or_removes_its_folder(self, user):
        user.run(BEGIN + "os.mkdir('other')\nos.chdir('other')\n" + STAGE)
        assert user.kept["status"] == "final"
        gone = "import tempfile\nfolder = tempfile.mkdtemp()\nos.chdir(folder)\nos.rmdir(folder)\n"
        last = user.run(gone + BEGIN + STAGE)[-1]
        assert f"look at {user.folder.parent / 'state'}" in last

    def test_a_kill_leaves_the_last_checkpoint(self, user):
        process = user.start(BEGIN + STAGE.replace("work()", "work(1e9)"))
        wait_for(lambda: user.files and user.kept["footprint"]["energy_j"] > 30)
        process.kill()
        process.communicate()
        assert user.kept["status"] == "running"

    def test_a_file_is_never_overwritten(self, user):
        """Containers that share a volume may have the same number and begin in the same second."""
        program = f"""
import time
time.strftime = lambda form: "2026-11-26-120000"
os.getpid = lambda: 7
{BEGIN}{STAGE}
"""
        for _ in range(3):
            user.run(program)
        names = [file.stem for file in user.files]
        assert names == ["2026-11-26-120000-7", "2026-11-26-120000-7_2", "2026-11-26-120000-7_3"]


class TestEnds:
    """The line at the end is one, and costs neither the exit nor its code."""

    def test_an_error(self, user):
        lines = user.run(BEGIN + "with carbon_otel.stage('training'):\n    work()\n    1 / 0\n", code=1)
        assert ENDS.match(lines[-1]) and "ZeroDivisionError: division by zero" in lines

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, -2), (signal.SIGTERM, -15)])
    def test_a_signal(self, number, code, user):
        begun = "print('begun', flush=True)\n"
        process = user.start(BEGIN + STAGE + begun + STAGE.replace("work()", "work(1e9)"))
        assert process.stdout.readline() == "begun\n"
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == code
        assert sum(bool(ENDS.match(line)) for line in errors.splitlines()) == 1
        assert user.kept["status"] == "final"

    @pytest.mark.parametrize(
        "close",
        ["sys.stderr.close()", "os.close(2)", "sys.stderr = None", "sys.stderr = sys.__stderr__ = None"],
    )
    def test_without_standard_error(self, close, user):
        user.run(BEGIN + STAGE + f"import sys\n{close}\n")
        assert user.kept["status"] == "final"

    def test_a_reader_that_has_gone(self, user):
        """As under `2>&1 | head -1`: the exit code stays the program's."""
        process = user.start(BEGIN + STAGE)
        process.stderr.readline()
        process.stderr.close()
        assert process.wait(60) == 0
        assert user.kept["status"] == "final"

    def test_a_pipe_that_nobody_empties(self, user):
        fill = """
import fcntl
os.set_blocking(2, False)
try:
    while True:
        os.write(2, b"x" * 65536)
except BlockingIOError:
    pass
os.set_blocking(2, True)
"""
        process = user.start(BEGIN + STAGE + fill)
        assert process.wait(60) == 0
        process.communicate()
        assert user.kept["status"] == "final"

    def test_a_stream_of_a_notebook_that_fails(self, user):
        broken = """
import io, sys
class Gone(io.StringIO):
    def write(self, text):
        raise RuntimeError("the front end has gone")
sys.stderr = Gone()
"""
        user.run(BEGIN + STAGE + broken)
        assert user.kept["status"] == "final"


def test_the_record_of_the_first_minute_is_what_a_program_still_shows(user):
    """`examples/first_minute.md`, but for the devices and the figures."""
    pytest.importorskip("sklearn")
    record = (ROOT / "examples" / "first_minute.md").read_text("utf-8")
    program, shown = (
        re.search(rf"^## scikit-learn\n.*?^```{language}\n(.*?)^```", record, re.S | re.M)[1]
        for language in ("python", "text")
    )
    lines = [line for line in shown.splitlines() if line.startswith("carbon_otel: ")]
    for said, recorded in zip(user.run(program), lines, strict=True):
        assert without_figures(said) == without_figures(recorded)


def without_figures(line: str) -> str:
    line = re.sub(r"by .* \(.*?\);", "by this machine;", line)
    line = re.sub(r", in [^;]+;", ", in no time;", line)
    line = re.sub(r"[\d.,]+( [µmk]?(J|Wh|g)\b)?", "0", line)
    return line.replace(" (`carbon-otel doctor` says why)", "")

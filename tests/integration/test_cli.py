"""`carbon-otel doctor` and `run`, as a user calls them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import venv

import pytest
from typer.testing import CliRunner

from carbon_otel.cli import app
from carbon_otel.cli.run import _wait_for
from carbon_otel.host import cloud
from tests.fakes.powercap import server


def carbon_otel_cli(*arguments, cwd, **variables):
    return subprocess.run(
        [sys.executable, "-m", "carbon_otel.cli", *arguments],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "100", **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )


def invoke(*arguments, **variables):
    """Run the command in this process, which has already loaded everything."""
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "100", **variables})


def measured(program, *options, cwd, python=sys.executable, **variables):
    (cwd / "program.py").write_text(textwrap.dedent(program))
    command = ("run", "--zone", "FR", *options, "--", str(python), "program.py")
    return carbon_otel_cli(*command, cwd=cwd, **variables)


BURN = "sum(i * i for i in range(2_000_000))\n"
OFTEN = {"CARBON_OTEL_CHECKPOINT_INTERVAL_S": "0.1", "CARBON_OTEL_INTERVAL_S": "0.05"}


def test_run_does_not_change_the_program_and_prints_its_cost(tmp_path):
    program = "import sys\nprint('to stdout')\n" + BURN + "sys.exit(3)"
    done = measured(program, "--stage", "training", cwd=tmp_path)
    assert done.returncode == 3
    assert done.stdout == "to stdout\n"
    assert "training" in done.stderr and "energy, " in done.stderr and "grid FR" in done.stderr
    assert "modelled.utilisation" in done.stderr


def test_run_measures_the_program_and_not_its_child_processes(tmp_path):
    program = """
        import os, subprocess, sys
        mine = sorted(name for name in os.environ if name.startswith("CARBON_OTEL_"))
        look = "import sys; print('carbon_otel' in sys.modules)"
        print(mine, "carbon_otel" in sys.modules, "typer" in sys.modules, os.environ.get("PYTHONPATH"))
        subprocess.run([sys.executable, "-c", look])
    """
    done = measured(program, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    given = ["CARBON_OTEL_RUNTIME_DIR", "CARBON_OTEL_ZONE"]  # the first one by the fixture of all tests
    assert done.stdout == f"{given} True False {tmp_path}\nFalse\n"


def test_options_after_the_program_belong_to_the_program(tmp_path):
    look = "import sys; print(sys.argv[1:])"
    done = carbon_otel_cli("run", sys.executable, "-c", look, "--zone", "Atlantis", "--", "x", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "['--zone', 'Atlantis', '--', 'x']\n")


def test_every_program_of_a_shell_line_is_in_the_summary(tmp_path):
    line = f"{sys.executable} -c pass; {sys.executable} -c pass; exit 4"
    done = carbon_otel_cli("run", "--zone", "FR", "--stage", "training", "--", "sh", "-c", line, cwd=tmp_path)
    assert done.returncode == 4
    assert done.stderr.count("-c pass") == 2
    assert "total of 2 processes" in done.stderr
    assert "training" in done.stderr.partition("stages: ")[2]


def test_run_loads_the_sitecustomize_that_it_hides(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("print('hidden')")
    done = measured("print('program')", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    # Once for the interpreter of the command, once for that of the program.
    assert done.stdout == "hidden\nhidden\nprogram\n"
    assert done.returncode == 0


def test_an_interpreter_without_carbon_otel_runs_the_program_unmeasured(tmp_path):
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    (tmp_path / "sitecustomize.py").write_text("print('hidden')")
    bare = tmp_path / "bare" / "bin" / "python"
    done = measured("print('program')", cwd=tmp_path, python=bare, PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "hidden\nhidden\nprogram\n")
    assert "nothing was measured" in done.stderr and "Traceback" not in done.stderr


def test_a_killed_program_leaves_a_lower_bound(tmp_path):
    program = BURN * 4 + "import os\nos.kill(os.getpid(), 9)"
    done = measured(program, "--stage", "training", cwd=tmp_path, **OFTEN)
    assert done.returncode == 128 + 9
    assert "lower bounds" in done.stderr and "training" in done.stderr


@pytest.mark.parametrize(
    ("whole_group", "number", "code", "message"),
    [(True, signal.SIGINT, 130, "KeyboardInterrupt"), (False, signal.SIGTERM, 143, "energy, ")],
)
def test_a_signal_ends_the_program_and_the_summary_follows(tmp_path, whole_group, number, code, message):
    journal = tmp_path / "journal.json"
    sleeper = (sys.executable, "-c", "import time; time.sleep(30)")
    running = subprocess.Popen(
        [sys.executable, "-m", "carbon_otel.cli", "run", "--zone", "FR", "--", *sleeper],
        cwd=tmp_path,
        env={**os.environ, **OFTEN, "CARBON_OTEL_JOURNAL": str(journal)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 20
    while not journal.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    # A terminal signals the group of processes, a supervisor only the command.
    (os.killpg if whole_group else os.kill)(running.pid, number)
    _, stderr = running.communicate(timeout=30)
    assert running.returncode == code
    assert message in stderr and "unattributed" in stderr and "lower bounds" not in stderr


def test_a_signal_before_the_program_runs_reaches_it(monkeypatch):
    class Late(subprocess.Popen):
        def __init__(self, *arguments, **settings):
            os.kill(os.getpid(), signal.SIGTERM)
            super().__init__(*arguments, **settings)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(subprocess, "Popen", Late)
    assert _wait_for(["sleep", "60"], os.environ) == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_users_own_journal(tmp_path):
    journal = tmp_path / "journal.json"
    variables = {"CARBON_OTEL_JOURNAL": "journal.json"}
    program = "import os\nos.mkdir('elsewhere')\nos.chdir('elsewhere')"
    done = measured(program, cwd=tmp_path, **variables)
    assert "unattributed" in done.stderr and json.loads(journal.read_text())["status"] == "final"
    # The journal of an earlier program does not belong to this one.
    done = carbon_otel_cli("run", "--", "true", cwd=tmp_path, **variables)
    assert "nothing was measured" in done.stderr and "unattributed" not in done.stderr


def test_a_shell_line_with_the_users_own_journal_loses_no_program(tmp_path):
    line = f"{sys.executable} -c '{BURN.strip()}'; {sys.executable} -c pass"
    variables = {"CARBON_OTEL_JOURNAL": "journal.json"}
    done = carbon_otel_cli("run", "--zone", "FR", "--", "sh", "-c", line, cwd=tmp_path, **variables)
    assert done.stderr.count("-c pass") == done.stderr.count("-c 'sum(") == 1
    assert "total of 2 processes" in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["journal.json"]


def test_run_reports_that_measuring_is_off(tmp_path):
    done = measured("print('program')", cwd=tmp_path, CARBON_OTEL_DISABLED="true")
    assert (done.returncode, done.stdout) == (0, "program\n")
    assert "CARBON_OTEL_DISABLED is set" in done.stderr


def test_an_exception_of_the_program_is_printed_unchanged(tmp_path):
    done = measured("raise KeyError('hidden')", "--stage", "training", cwd=tmp_path)
    assert done.returncode == 1
    assert "KeyError: 'hidden'" in done.stderr and "training" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("run",), 2, "carbon-otel run -- python train.py"),
        (("run", "--stage", "a b", "--", "true"), 2, "stage kind 'a b'"),
        (("run", "--stge", "training", "--", "true"), 2, "No such option"),
        (("run", "--zone", "Atlantis", "--", "true"), 2, "unknown zone 'Atlantis'"),
        (("run", "--pue", "0.1", "--", "true"), 2, "from 1.0"),
        (("run", "--", "no-such-program"), 127, "command not found"),
        (("run", "train.py", "--fast"), 127, "not found; write: carbon-otel run -- python train.py --fast\n"),
        (("run", "--", "true"), 0, "nothing was measured"),
        (("run", "--", "/"), 126, "Permission denied"),
        (("demo", "--zone", "Atlantis"), 2, "unknown zone 'Atlantis'"),
    ],
)
def test_misuse_gives_a_message_of_one_line(tmp_path, monkeypatch, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    done = invoke(*arguments)
    assert done.exit_code == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["mlflow", "sklearn"])
def test_the_demo_names_the_missing_package(tmp_path, name):
    # Found before the real package; its import fails like that of a missing one.
    for module in ("mlflow", "sklearn"):
        absent = f"raise ModuleNotFoundError('absent', name={name!r})" if module == name else ""
        (tmp_path / f"{module}.py").write_text(absent)
    done = carbon_otel_cli("demo", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.strip() == f'{name} is not installed: pip install "carbon-otel[all]"'


def test_doctor_shows_the_components_of_the_host(tmp_path):
    tree = server(tmp_path)
    done = carbon_otel_cli(
        "doctor", cwd=tmp_path, CARBON_OTEL_POWERCAP_ROOT=str(tree.root), CARBON_OTEL_ZONE="FR"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("measured.counter") == 4
    assert "France, 41.4 g/kWh" in done.stdout and "CARBON_OTEL_ZONE" not in done.stdout


def test_doctor_prints_a_fix_that_can_be_copied(tmp_path):
    tree = server(tmp_path)
    for zone in (*tree.package, *tree.dram):
        zone.file.unlink()
        zone.file.mkdir()  # root may read any file, but not a folder
    done = invoke("doctor", CARBON_OTEL_POWERCAP_ROOT=str(tree.root), COLUMNS="80")
    assert "modelled.utilisation" in done.stdout
    rule = next(line for line in done.stdout.splitlines() if "SUBSYSTEM" in line)
    assert rule.strip().startswith('echo \'SUBSYSTEM=="powercap"')
    assert rule.endswith("sudo udevadm trigger")


def test_doctor_prints_json():
    variables = {"CARBON_OTEL_ZONE": "DEU", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:4318"}
    report = json.loads(invoke("doctor", "--json", **variables).stdout)
    assert report["otlp_endpoint"] == "http://127.0.0.1:4318"
    assert report["grid"]["zone"] == "DE" and report["grid"]["licence"] == "CC BY 4.0"
    assert {part["component"] for part in report["components"]} >= {"cpu", "memory", "gpu"}
    assert 0 < report["reserved_share"] <= 1


def test_doctor_shows_the_region_and_who_gave_the_pue():
    report = json.loads(invoke("doctor", "--json", CARBON_OTEL_REGION="aws:eu-north-1").stdout)
    assert (report["region"], report["grid"]["zone"], report["pue"]) == ("aws:eu-north-1", "SE", 1.09)
    assert "2025" in report["pue_source"] and report["grid"]["signal"]["scope"] == "lifecycle"
    assert "region aws:eu-north-1" in invoke("doctor", CARBON_OTEL_REGION="aws:eu-north-1").stdout


@pytest.mark.parametrize(("region", "shown"), [("europe-west9", "gcp:europe-west9"), (None, "gcp:...")])
def test_doctor_says_what_the_machine_names_and_how_to_give_the_region(monkeypatch, region, shown):
    monkeypatch.setattr(cloud, "find", lambda: cloud.Cloud("gcp", region, "/sys/class/dmi/id/product_name"))
    text = invoke("doctor").stdout
    assert "product_name" in text and "region not set" in text
    assert f"export CARBON_OTEL_REGION={shown}" in text
    assert "World average" in text, "the region that a file names is a hint, and no setting"


def test_doctor_with_a_wrong_setting():
    done = invoke("doctor", CARBON_OTEL_ZONE="XX")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("CARBON_OTEL_ZONE='XX': unknown zone")

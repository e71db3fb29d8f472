"""`carbon-otel doctor` and `run`, as a user calls them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

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


def measured(program, *options, cwd, **variables):
    (cwd / "program.py").write_text(textwrap.dedent(program))
    command = ("run", "--zone", "FR", *options, "--", sys.executable, "program.py")
    return carbon_otel_cli(*command, cwd=cwd, **variables)


BURN = "sum(i * i for i in range(2_000_000))\n"


def test_run_leaves_the_program_as_it_is_and_says_what_it_cost(tmp_path):
    program = "import sys\nprint('to stdout')\n" + BURN + "sys.exit(3)"
    done = measured(program, "--stage", "training", cwd=tmp_path)
    assert done.returncode == 3
    assert done.stdout == "to stdout\n"
    assert "training" in done.stderr and "Wh" in done.stderr and "grid FR" in done.stderr
    assert "modelled.utilisation" in done.stderr


def test_run_measures_the_program_and_not_what_it_starts(tmp_path):
    program = """
        import os, subprocess, sys
        mine = sorted(name for name in os.environ if name.startswith("CARBON_OTEL_"))
        look = "import sys; print('carbon_otel' in sys.modules)"
        print(mine, "carbon_otel" in sys.modules, os.environ.get("PYTHONPATH"))
        subprocess.run([sys.executable, "-c", look])
    """
    done = measured(program, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.stdout == f"['CARBON_OTEL_PUE', 'CARBON_OTEL_ZONE'] True {tmp_path}\nFalse\n"


def test_run_loads_the_sitecustomize_that_it_stands_before(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("print('theirs')")
    done = measured("print('program')", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    # Once for the command's own interpreter, once for the program's.
    assert done.stdout == "theirs\ntheirs\nprogram\n"
    assert done.returncode == 0


def test_a_killed_program_leaves_a_lower_bound(tmp_path):
    program = BURN * 4 + "import os\nos.kill(os.getpid(), 9)"
    often = {"CARBON_OTEL_CHECKPOINT_INTERVAL": "0.1", "CARBON_OTEL_INTERVAL": "0.05"}
    done = measured(program, "--stage", "training", cwd=tmp_path, **often)
    assert done.returncode == 128 + 9
    assert "lower bounds" in done.stderr and "training" in done.stderr


def test_an_exception_in_the_program_is_the_programs(tmp_path):
    done = measured("raise KeyError('theirs')", "--stage", "training", cwd=tmp_path)
    assert done.returncode == 1
    assert "KeyError: 'theirs'" in done.stderr and "training" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("run",), 2, "carbon-otel run -- python train.py"),
        (("run", "--stage", "a b", "--", "true"), 2, "stage kind 'a b'"),
        (("run", "--zone", "Atlantis", "--", "true"), 2, "unknown zone 'Atlantis'"),
        (("run", "--pue", "0.1", "--", "true"), 2, "from 1.0"),
        (("run", "--", "no-such-program"), 127, "command not found"),
        (("run", "--", "true"), 0, "nothing was measured"),
        (("doctor", "--nonsense"), 2, "No such option"),
    ],
)
def test_misuse_is_answered_in_a_line(tmp_path, arguments, code, said):
    done = carbon_otel_cli(*arguments, cwd=tmp_path)
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_doctor_shows_what_is_there(tmp_path):
    tree = server(tmp_path)
    done = carbon_otel_cli(
        "doctor", cwd=tmp_path, CARBON_OTEL_POWERCAP_ROOT=str(tree.root), CARBON_OTEL_ZONE="FR"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("measured.counter") == 4
    assert "France, 44.2 g/kWh" in done.stdout and "CARBON_OTEL_ZONE" not in done.stdout


def test_doctor_prints_a_fix_that_can_be_copied(tmp_path):
    tree = server(tmp_path)
    for zone in (*tree.package, *tree.dram):
        zone.file.unlink()
        zone.file.mkdir()  # root may read any file, but not a folder
    done = carbon_otel_cli("doctor", cwd=tmp_path, CARBON_OTEL_POWERCAP_ROOT=str(tree.root))
    assert "modelled.utilisation" in done.stdout
    rule = next(line for line in done.stdout.splitlines() if "SUBSYSTEM" in line)
    assert rule.strip().startswith('echo \'SUBSYSTEM=="powercap"')
    assert rule.endswith("sudo udevadm trigger")


def test_doctor_for_machines(tmp_path):
    done = carbon_otel_cli("doctor", "--json", cwd=tmp_path, CARBON_OTEL_ZONE="DEU")
    report = json.loads(done.stdout)
    assert report["grid"]["zone"] == "DE" and report["grid"]["licence"] == "CC BY 4.0"
    assert {part["component"] for part in report["components"]} >= {"cpu", "memory", "gpu"}
    assert 0 < report["reserved_share"] <= 1


def test_doctor_with_a_wrong_setting(tmp_path):
    done = carbon_otel_cli("doctor", cwd=tmp_path, CARBON_OTEL_ZONE="XX")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("CARBON_OTEL_ZONE='XX': unknown zone")

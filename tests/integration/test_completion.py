"""The command completes its words in a real bash."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import carbon_otel
from carbon_otel.cli import app

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")

# After a Tab, bash calls the function of `complete -F`, with the words of the line and the cursor's place.
PRESSES = {
    "rep": {"report", "reprice"},
    "report churn --zone F": {"FI", "FJ", "FK", "FO", "FR"},
    "where churn --clouds gcp,a": {"gcp,aws", "gcp,azure"},
    "run --stage t": {"training"},
    "forecast --gpu H1": {"H100-SXM5-80GB"},
}
SCRIPT = 'eval "$(carbon-otel --show-completion)"\n' + "".join(
    f"""
COMP_WORDS=(carbon-otel {words}) COMP_CWORD={len(words.split())}
_carbon_otel_completion carbon-otel
printf '%s\\t' "${{COMPREPLY[@]}}"; echo
"""
    for words in PRESSES
)


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """An environment in which `carbon-otel` is the command of this tree."""
    folder = tmp_path_factory.mktemp("bin")
    command = folder / "carbon-otel"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m carbon_otel "$@"\n')
    command.chmod(0o755)
    package = Path(carbon_otel.__file__).parents[1]
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(package)}


def test_tabs_in_bash(environment):
    done = subprocess.run(["bash", "-c", SCRIPT], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr
    for (words, offered), line in zip(PRESSES.items(), done.stdout.splitlines(), strict=True):
        assert offered <= set(line.split("\t")), words


def test_the_version():
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.stdout) == (0, f"carbon-otel {carbon_otel.__version__}\n")


def commands(command, *names):
    yield list(names)
    for name, each in getattr(command, "commands", {}).items():
        yield from commands(each, *names, name)


@pytest.mark.parametrize("names", [*commands(typer.main.get_command(app))], ids=" ".join)
def test_the_short_option_for_help(names):
    done = CliRunner().invoke(app, [*names, "-h"])
    assert done.exit_code == 0 and done.stdout.split()[0] == "Usage:"


def test_the_module_is_the_command(environment):
    done = subprocess.run(
        [sys.executable, "-m", "carbon_otel", "--version"], env=environment, capture_output=True, text=True
    )
    assert done.stdout == f"carbon-otel {carbon_otel.__version__}\n"

"""Processes of one user meet in whatever environment they were started; where they cannot, the figure says so."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from carbon_otel import config
from tests.fakes.drawing import Drawing
from tests.fakes.powercap import server
from tests.integration.processes import Program

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs flock and /proc")

# Extrapolation at the edges, and changes between two readings of one tick.
TOLERANCE = 0.04
NOBODY = 65534

# Prints the flags and the warnings of a process that measures for a moment.
ONE_STAGE = """
import json, logging, os, sys, time
import carbon_otel
messages = []
class Kept(logging.Handler):
    def emit(self, record):
        messages.append(record.getMessage())
logging.getLogger("carbon_otel").addHandler(Kept())
carbon_otel.instrument(zone="FR", powercap_root=sys.argv[1], interval_s=0.05)
begun = time.process_time()
with carbon_otel.stage("training") as stage:
    while time.process_time() - begun < 0.2:  # much longer than the 10 ms between two changes of the counter
        pass
carbon_otel.flush()
flags = sorted({flag.partition(":")[0] for flag in stage.footprint.flags})
energy_j = stage.footprint.energy_j
carbon_otel.uninstrument()
print(json.dumps({"flags": flags, "energy_j": energy_j, "messages": messages}))
"""


@pytest.fixture(autouse=True)
def default_places(monkeypatch):
    monkeypatch.delenv("CARBON_OTEL_RUNTIME_DIR", raising=False)


@pytest.fixture
def fed(tmp_path):
    """A package of 50 W."""
    with Drawing(server(tmp_path / "sys"), zones=1, watts=50) as drawing:
        yield drawing


def one_stage(root, environment, **options):
    done = subprocess.run(
        [sys.executable, "-c", ONE_STAGE, str(root)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def charged(members: list[Program]) -> tuple[float, float, float]:
    """The sum of the members' joules while all are open, and its least and greatest correct value."""
    for member in members:
        member.go()
        assert member.line() == "open"
    time.sleep(3)
    for member in members:
        member.say("end")
    totals = [json.loads(member.finish()) for member in members]
    befores, afters, end_befores, end_afters = zip(*(total["counters"] for total in totals), strict=True)
    return (
        sum(total["energy_j"] for total in totals),
        max(end_befores) - min(afters),
        max(end_afters) - min(befores),
    )


@pytest.mark.parametrize(
    "variables",
    [("XDG_RUNTIME_DIR",), ("TMPDIR",), ("XDG_RUNTIME_DIR", "TMPDIR", "HOME", "XDG_STATE_HOME")],
    ids="+".join,
)
def test_two_processes_meet_whatever_their_environments(variables, fed, launch, tmp_path):
    members = []
    for name in ("login", "cron"):
        folder = tmp_path / name
        folder.mkdir()
        members.append(launch("member.py", str(fed.root), "busy", **dict.fromkeys(variables, str(folder))))
    joules, at_least, at_most = charged(members)
    assert at_least * (1 - TOLERANCE) < joules < at_most * (1 + TOLERANCE)


def test_two_processes_meet_whatever_the_path_by_which_they_know_the_counters(fed, launch, tmp_path):
    (tmp_path / "link").symlink_to(fed.root)
    members = [launch("member.py", str(root), "busy") for root in (fed.root, tmp_path / "link")]
    joules, at_least, at_most = charged(members)
    assert at_least * (1 - TOLERANCE) < joules < at_most * (1 + TOLERANCE)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to own folders as another user")
def test_two_processes_meet_where_another_user_has_taken_the_name_of_their_folder(fed, launch, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    place.chmod(0o1777)
    (place / "carbon_otel-host-0").mkdir()
    os.chown(place / "carbon_otel-host-0", NOBODY, NOBODY)
    members = [
        launch("member.py", str(fed.root), "busy", CARBON_OTEL_RUNTIME_DIR=str(place)) for _ in range(2)
    ]
    joules, at_least, at_most = charged(members)
    assert at_least * (1 - TOLERANCE) < joules < at_most * (1 + TOLERANCE)
    assert not any(member.err for member in members)


READ_ONLY = """
import errno, os
def refused(*arguments, **options):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), arguments[0])
def opened(path, flags, *arguments, **options):
    if flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
        refused(path)
    return original(path, flags, *arguments, **options)
original, os.open, os.mkdir = os.open, opened, refused
import _io, io, tempfile
tempfile._os.open = opened
"""


@pytest.mark.parametrize("home", [None, "/nonexistent"])
def test_without_a_home_and_a_folder_to_write_it_measures_and_warns_once(home, fed):
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    if home:
        environment["HOME"] = home
    program = READ_ONLY + ONE_STAGE
    done = subprocess.run(
        [sys.executable, "-c", program, str(fed.root)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["energy_j"] > 0 and "uncoordinated" in result["flags"]
    assert len([message for message in result["messages"] if "more than once" in message]) == 1
    assert not Path("/nonexistent").exists()


AS_ANOTHER_USER = """
import json, os, sys
import carbon_otel.config as config
from carbon_otel.mlflow.delivery.spool import Spool
os.setgroups([])
os.setgid(int(sys.argv[1]))
os.setuid(int(sys.argv[1]))
folder = config.resolve({}).state_dir
box = Spool.create(folder / "mlflow")
left = list(Spool.left_in(folder / "mlflow"))
box.close()
print(json.dumps([str(folder), str(box.path), folder.stat().st_mode]))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to run as another user")
@pytest.mark.parametrize("variable", ["HOME", "XDG_STATE_HOME"])
def test_with_the_home_of_another_user_it_keeps_its_state_in_a_folder_of_its_own(variable, tmp_path):
    """As under `docker run --user`, where this user cannot enter it."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    done = subprocess.run(
        [sys.executable, "-c", AS_ANOTHER_USER, f"{NOBODY}"],
        env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), variable: str(home)},
        cwd="/",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    folder, path, mode = json.loads(done.stdout)
    assert not folder.startswith(str(home)) and path.startswith(folder)
    assert stat.S_IMODE(mode) == 0o700
    assert list(home.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to own folders as another user")
@pytest.mark.parametrize("variable", ["HOME", "XDG_STATE_HOME"])
def test_root_makes_nothing_in_the_home_of_another_user(variable, tmp_path, monkeypatch):
    """As under `sudo -E`: a folder of root would keep the user out of it from then on."""
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv(variable, str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    assert config.resolve({}).state_dir.is_relative_to(tmp_path)
    os.chown(tmp_path / "home", NOBODY, NOBODY)
    assert not config.resolve({}).state_dir.is_relative_to(tmp_path)

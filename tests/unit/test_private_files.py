"""Everything that is made is this user's only, whatever the umask, and nothing of another user is opened."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from carbon_otel.private_files import (
    NotPrivateError,
    add_to_file,
    create_file,
    is_private_folder,
    make_folder,
    open_file,
    replace_file,
)

NOBODY = 65534
posix = pytest.mark.skipif(os.name != "posix", reason="needs modes and owners")
as_root = pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0, reason="needs root, to own files as another user"
)


@pytest.fixture
def no_umask():
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@posix
def test_folders_and_their_parents_are_private(tmp_path, no_umask):
    make_folder(tmp_path / "a" / "b" / "c")
    make_folder(tmp_path / "a" / "b" / "c")
    assert [mode(tmp_path / name) for name in ("a", "a/b", "a/b/c")] == [0o700] * 3
    (tmp_path / "file").touch()
    for wrong, error in (("file", FileExistsError), ("file/below", NotADirectoryError)):
        with pytest.raises(error):
            make_folder(tmp_path / wrong)


@posix
def test_files_are_private(tmp_path, no_umask):
    os.close(open_file(tmp_path / "opened", os.O_RDWR | os.O_CREAT))
    replace_file(tmp_path / "replaced", "text")
    assert mode(tmp_path / "opened") == mode(tmp_path / "replaced") == 0o600
    assert (tmp_path / "replaced").read_text() == "text"


@posix
def test_a_file_that_exists_keeps_its_mode(tmp_path):
    (tmp_path / "journal").touch()
    (tmp_path / "journal").chmod(0o640)
    replace_file(tmp_path / "journal", "text")
    assert mode(tmp_path / "journal") == 0o640
    assert list(tmp_path.iterdir()) == [tmp_path / "journal"]


@posix
def test_links_are_replaced_and_never_followed(tmp_path):
    (tmp_path / "secret").write_text("mine")
    (tmp_path / "link").symlink_to("secret")
    with pytest.raises(OSError, match="symbolic links"):
        open_file(tmp_path / "link", os.O_RDWR | os.O_CREAT)
    replace_file(tmp_path / "link", "text")
    assert (tmp_path / "secret").read_text() == "mine" and (tmp_path / "link").read_text() == "text"


@posix
def test_what_is_no_regular_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(NotPrivateError):
        open_file(tmp_path / "pipe", os.O_RDONLY)
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        for name in ("pipe", "folder", "socket"):
            with pytest.raises(NotPrivateError):
                replace_file(tmp_path / name, "text")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "pipe", "socket"]


@posix
def test_a_file_that_others_can_write_is_refused(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "file").chmod(0o620)
    with pytest.raises(NotPrivateError):
        open_file(tmp_path / "file", os.O_RDWR)


@as_root
def test_a_file_or_folder_of_another_user_is_refused(tmp_path):
    (tmp_path / "file").touch(mode=0o600)
    (tmp_path / "folder").mkdir(mode=0o700)
    assert is_private_folder(tmp_path / "folder")
    for path in tmp_path.iterdir():
        os.chown(path, NOBODY, NOBODY)
    with pytest.raises(NotPrivateError):
        open_file(tmp_path / "file", os.O_RDWR)
    assert not is_private_folder(tmp_path / "folder")


@posix
def test_a_file_is_replaced_on_a_file_system_that_shows_another_owner(tmp_path, monkeypatch):
    monkeypatch.setattr("carbon_otel.private_files.user_id", lambda: tmp_path.stat().st_uid + 1)
    for text in ("first", "second"):
        replace_file(tmp_path / "file", text)
        assert (tmp_path / "file").read_text() == text


@posix
def test_a_failed_write_leaves_no_file(tmp_path):
    program = (
        "import resource, signal, sys, pathlib\n"
        "from carbon_otel.private_files import replace_file\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))\n"
        "try: replace_file(pathlib.Path(sys.argv[1]), 'x' * 100)\n"
        "except OSError: print('refused')\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "file")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "refused\n"
    assert not list(tmp_path.iterdir())


UMASK_0 = """
import os, sys
os.umask(0)
import carbon_otel
folder = sys.argv[1]
carbon_otel.instrument(zone="FR")
from carbon_otel import runtime
from carbon_otel.mlflow.delivery.spool import Spool
session = runtime.active()
box = Spool.create(session.settings.state_dir / "mlflow")
with carbon_otel.stage("training"):
    pass
session.engine.tick(True)
carbon_otel.flush(1)
made = [os.path.join(top, name) for top, folders, files in os.walk(folder) for name in folders + files]
print(*[f"{os.lstat(path).st_mode & 0o777:o} {path}" for path in made], sep="\\n")
os._exit(0)
"""


@posix
def test_nothing_that_a_session_makes_can_be_entered_by_others_without_a_umask(tmp_path):
    paths = {
        "XDG_STATE_HOME": "state",
        "CARBON_OTEL_RUNTIME_DIR": "run",
        "CARBON_OTEL_JOURNAL": "journal.json",
    }
    variables = {name: str(tmp_path / path) for name, path in paths.items()}
    (tmp_path / "run").mkdir(mode=0o700)
    done = subprocess.run(
        [sys.executable, "-c", UMASK_0, str(tmp_path)],
        env={**os.environ, **variables, "CARBON_OTEL_CHECKPOINT_INTERVAL_S": "0.01"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.split("\n")[:-1]
    assert any(line.endswith(".spool") for line in lines) and any("device-book" in line for line in lines)
    assert any(line.endswith("journal.json") for line in lines)
    assert not [line for line in lines if line.split()[0] not in ("600", "700")]


@as_root
def test_a_link_of_another_user_leads_to_no_folder(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to("target")
    make_folder(tmp_path / "link")
    os.chown(tmp_path / "link", NOBODY, NOBODY, follow_symlinks=False)
    with pytest.raises(NotPrivateError):
        make_folder(tmp_path / "link")


def test_on_a_system_without_owners_modes_say_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("carbon_otel.private_files._HAS_OWNERS", False)
    monkeypatch.setattr("carbon_otel.private_files.user_id", lambda: tmp_path.stat().st_uid)
    (tmp_path / "file").touch()
    (tmp_path / "file").chmod(0o666)
    os.close(open_file(tmp_path / "file", os.O_RDWR))


@posix
@pytest.mark.parametrize("links", [True, False])
def test_a_file_is_created_once_and_added_to(links, tmp_path, no_umask, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError("no links on this file system")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "rows.csv"
    assert create_file(path, "a\n") and not create_file(path, "b\n")
    add_to_file(path, "c\n")
    assert (path.read_text(), mode(path)) == ("a\nc\n", 0o600)
    assert list(tmp_path.iterdir()) == [path]


@posix
def test_nothing_is_added_to_a_link_or_a_pipe(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (("link", "symbolic"), ("pipe", "No such device"), ("missing", "No such file")):
        with pytest.raises(OSError, match=reason):
            add_to_file(tmp_path / name, "x")
    assert not (tmp_path / "file").read_text() and not (tmp_path / "missing").exists()

"""Files are made and opened for writing in one module, `private_files`, or below with a reason."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import carbon_otel

PACKAGE = Path(carbon_otel.__file__).parent

ALLOWED = {
    "host/meeting_place.py: mkdir": "must know whether another process has just made the folder",
    "cli/run.py: tempfile.TemporaryDirectory": "of mode 0700 and of a random name",
    "cli/autoload/site/sitecustomize.py: os.open": "in that folder; the program may lack this package",
    **dict.fromkeys(
        (f"mlflow/delivery/metric_files.py: {call}" for call in ("open", "mkdir", "os.link")),
        "MLflow's own files, which all users of the store read; under a random name",
    ),
    "mlflow/delivery/former_outbox.py: sqlite3.connect": "takes no descriptor; file and folder are checked before",
}

# Methods of paths, and functions of modules.
METHODS = ("write_text", "write_bytes", "mkdir", "touch", "symlink_to", "hardlink_to")
FUNCTIONS = ("os.mkdir", "os.makedirs", "os.mkfifo", "os.mknod", "os.link", "os.symlink", "sqlite3.connect")
MODULES = ("shutil", "tempfile")


def writers(code: str) -> Iterator[str]:
    """The calls that make a file or a folder, or open one for writing."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call):
            called, arguments = ast.unparse(node.func), ast.unparse(ast.List([*node.args, *node.keywords]))
            method = called.rpartition(".")[2]
            if (
                called in FUNCTIONS
                or called.partition(".")[0] in MODULES
                or (called == "os.open" and _is_for_writing(arguments))
            ):
                yield called
            elif method in METHODS or (method == "open" and called != "os.open" and _has_mode(node)):
                yield method


def _is_for_writing(arguments: str) -> bool:
    return any(flag in arguments for flag in ("O_WRONLY", "O_RDWR", "O_CREAT"))


def _has_mode(node: ast.Call) -> bool:
    """Whether an argument is a mode of `open` for writing."""
    values = [getattr(a, "value", None) for a in (*node.args, *(k.value for k in node.keywords))]
    return any(isinstance(v, str) and set(v) <= set("rwaxbt+") and set(v) & set("wax+") for v in values)


def test_files_are_made_and_opened_for_writing_in_one_module():
    found = {
        f"{path.relative_to(PACKAGE).as_posix()}: {call}"
        for path in PACKAGE.rglob("*.py")
        if path.name != "private_files.py" and "_examples" not in path.parts
        for call in writers(path.read_text("utf-8"))
    }
    assert found == set(ALLOWED)


@pytest.mark.parametrize(
    "code",
    [
        "open(path, 'w')",
        "path.open('ab')",
        "open(path, mode='x')",
        "os.open(path, os.O_RDWR)",
        "os.open(path, os.O_RDONLY | os.O_CREAT)",
        "path.write_text('')",
        "(folder / 'a').mkdir()",
        "sqlite3.connect(path)",
        "tempfile.mkstemp()",
    ],
)
def test_a_writer_is_found(code):
    assert list(writers(code))


@pytest.mark.parametrize(
    "code", ["open(p)", "p.open('rb')", "os.open(p, os.O_RDONLY)", "spool.open(path)", "x.copy()"]
)
def test_a_reader_is_not_found(code):
    assert not list(writers(code))

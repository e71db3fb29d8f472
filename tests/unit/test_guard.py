"""Faults are contained and logged once per kind."""

from __future__ import annotations

import asyncio
import logging
import shutil
import subprocess
import sys
import threading
import traceback

import pytest

from carbon_otel import guard
from carbon_otel.guard import contain, guarded, log_once


@pytest.fixture(autouse=True)
def warnings(caplog):
    guard.forget()
    caplog.set_level(logging.WARNING, "carbon_otel")
    return caplog


def fail(error: BaseException) -> None:
    raise error


def test_a_fault_returns_the_default_and_is_logged_with_its_traceback(warnings):
    assert contain("dividing", 7, lambda a, b: a / b, 1, 0) == 7
    assert contain("dividing", 7, lambda a, *, b: a / b, 1, b=2) == 0.5
    (record,) = warnings.records
    assert (
        record.getMessage() == "dividing failed: ZeroDivisionError('division by zero'); the program continues"
    )
    assert record.exc_info[0] is ZeroDivisionError


def test_a_block_ends_at_its_fault_and_the_program_continues(warnings):
    steps = []
    with guarded("working"):
        steps.append("before")
        fail(ValueError("internal"))
        steps.append("after")
    assert steps == ["before"] and "working failed: ValueError('internal')" in warnings.text


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError])
def test_exceptions_that_stop_a_program_pass_through(error, warnings):
    with pytest.raises(error):
        contain("working", None, fail, error())
    with pytest.raises(error), guarded("working"):
        raise error
    assert not warnings.records


def test_each_kind_is_logged_once_until_a_new_session(warnings):
    for _ in range(3):
        for device in ("cpu", "gpu"):
            log_once("%s could not be read", device, about=device)
        contain("working", None, fail, ValueError())
    assert len(warnings.records) == 3
    guard.forget()
    log_once("%s could not be read", "cpu", about="cpu")
    assert len(warnings.records) == 4


def test_the_memory_for_kinds_of_warnings_is_bounded(warnings):
    for number in range(3 * guard._MOST_LOGGED):
        log_once("file %d cannot be read", number, about=number)
    assert len(guard._logged) == guard._MOST_LOGGED + 1
    assert len(warnings.records) == guard._MOST_LOGGED + 1
    assert "further kinds" in warnings.records[-1].getMessage()


def test_threads_log_a_kind_once_together(warnings):
    gate = threading.Barrier(8)

    def log() -> None:
        gate.wait()
        for number in range(50):
            log_once("kind %d", number, about=number)

    threads = [threading.Thread(target=log) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(warnings.records) == 50


def test_the_type_checker_checks_a_contained_call(tmp_path):
    pytest.importorskip("mypy")
    program = tmp_path / "calls.py"
    program.write_text("""
from guard import contain

def flush(timeout_s: float) -> bool:
    return timeout_s > 0

right: bool = contain("flushing", False, flush, 1.0)
named: bool | None = contain("flushing", None, flush, timeout_s=1.0)
contain("flushing", False, flush)
contain("flushing", False, flush, "soon")
contain("flushing", False, flush, 1.0, 2.0)
default: bool = contain("flushing", None, flush, 1.0)
""")
    shutil.copy(
        guard.__file__, tmp_path / "guard.py"
    )  # only this file, because checking the package takes long
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), program.name],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    wrong = [line.split(":")[1] for line in done.stdout.splitlines() if ": error:" in line]
    assert wrong == ["9", "10", "11", "12"], done.stdout + done.stderr


class Answered(Exception):
    """As libraries define them: with a message of its own, beside or instead of the arguments."""

    def __init__(self, message, inner=None):
        super().__init__(message, inner)
        self.message = message

    def __str__(self):
        return self.message


class Stubborn(Exception):
    def __str__(self):
        return f"cannot be changed: {ADDRESS}"


ADDRESS = "postgresql://me:hunter2-Xy9@db/m"


def caused_by(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(ADDRESS),
        Answered(ADDRESS),
        KeyError(("in a tuple", ADDRESS)),
        OSError(5, ADDRESS, ADDRESS),
        UnicodeDecodeError("utf-8", b"x", 0, 1, ADDRESS),
        RuntimeError(RuntimeError(ADDRESS)),
        Answered("harmless", RuntimeError(ADDRESS)),
        caused_by(RuntimeError("harmless"), Answered(ADDRESS)),
        caused_by(RuntimeError(ADDRESS), caused_by(Stubborn(), RuntimeError(ADDRESS))),
    ],
    ids=repr,
)
def test_an_exception_for_the_caller_has_no_secret(error):
    cleaned = guard.without_secrets(error)
    assert cleaned is error
    assert "hunter2" not in "".join(traceback.format_exception(cleaned)) + repr(cleaned)


def test_an_exception_that_cannot_be_changed_is_replaced():
    cleaned = guard.without_secrets(Stubborn())
    assert "cannot be changed: postgresql://me@db/m" in str(cleaned) and "Stubborn" in str(cleaned)
    assert "hunter2" not in "".join(traceback.format_exception(cleaned))


def test_causes_in_a_circle_are_cleaned_once():
    first, second = RuntimeError(ADDRESS), RuntimeError(ADDRESS)
    first.__context__, second.__context__ = second, first
    assert "hunter2" not in str(guard.without_secrets(first)) + str(second)


def test_an_exception_without_secrets_is_unchanged():
    error = caused_by(KeyError("run", 3), OSError(2, "No such file", "x"))
    before = error.args, error.__cause__.args
    assert guard.without_secrets(error) is error and (error.args, error.__cause__.args) == before

"""Faults are contained and logged once per kind."""

from __future__ import annotations

import asyncio
import logging
import shutil
import subprocess
import sys
import threading

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

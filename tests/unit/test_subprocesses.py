"""Programs started from a stage get its variables, and otherwise the environment that they would get without."""

from __future__ import annotations

import asyncio
import ctypes
import os
import subprocess
import sys

import pytest
from opentelemetry.sdk.trace import TracerProvider

import carbon_otel
from carbon_otel.instrumentation.subprocesses import inherited

SHOW = [sys.executable, "-ISc", "import os; print(sorted(os.environ.items()))"]


@pytest.fixture
def stage():
    carbon_otel.instrument(zone="FR", tracer_provider=TracerProvider(shutdown_on_exit=False))
    with carbon_otel.stage("training") as opened:
        yield opened


@pytest.fixture
def set_by_c():
    """A variable that only C code knows."""
    libc = ctypes.CDLL(None)
    libc.setenv(b"SET_BY_C", b"a=b \xff", 1)
    yield
    libc.unsetenv(b"SET_BY_C")


def shown(cwd: str | None = "/", **options) -> dict[str, str]:
    """The environment of a program; with a `cwd` CPython forks, without one it may use `posix_spawn`."""
    done = subprocess.run(SHOW, capture_output=True, text=True, check=True, cwd=cwd, **options)
    return dict(eval(done.stdout))


def ours() -> dict[str, str]:
    return dict(carbon_otel.inject())


def test_the_environment_is_what_it_is_without_and_our_variables(set_by_c):
    without = shown()
    assert "SET_BY_C" in without
    carbon_otel.instrument(zone="FR", tracer_provider=TracerProvider(shutdown_on_exit=False))
    with carbon_otel.stage("training"):
        assert ours() and shown() == {**without, **ours()}
    assert ours() == {} and shown() == without


def test_a_variable_that_c_code_removed_does_not_come_back(stage, monkeypatch):
    monkeypatch.setenv("REMOVED_BY_C", "1")
    ctypes.CDLL(None).unsetenv(b"REMOVED_BY_C")
    assert "REMOVED_BY_C" not in shown()


def test_what_preexec_fn_sets_arrives(stage, set_by_c):
    def prepare() -> None:
        os.environ["SET_BY_PREEXEC"] = "1"
        ctypes.CDLL(None).setenv(b"SET_BY_C_IN_PREEXEC", b"2", 1)

    found = shown(preexec_fn=prepare)
    assert (found["SET_BY_PREEXEC"], found["SET_BY_C_IN_PREEXEC"]) == ("1", "2")
    assert "SET_BY_C" in found and found["TRACEPARENT"] == ours()["TRACEPARENT"]
    assert "SET_BY_PREEXEC" not in os.environ and "TRACEPARENT" not in os.environ


def test_preexec_fn_decides(stage):
    def remove() -> None:
        del os.environ["TRACEPARENT"]

    assert "TRACEPARENT" not in shown(preexec_fn=remove)


def test_an_error_in_preexec_fn_is_the_users(stage):
    def fail() -> None:
        raise LookupError

    with pytest.raises(subprocess.SubprocessError, match=r"^Exception occurred in preexec_fn\.$"):
        subprocess.run(SHOW, preexec_fn=fail)


def test_an_environment_that_the_caller_gives_is_not_changed(stage):
    assert "TRACEPARENT" not in shown(env={"PATH": os.environ["PATH"]})
    assert shown(env=carbon_otel.inject({"A": "1"}))["TRACEPARENT"] == ours()["TRACEPARENT"]


def test_where_posix_spawn_starts_the_program(stage, monkeypatch):
    monkeypatch.setattr(subprocess, "_USE_POSIX_SPAWN", True)
    monkeypatch.setattr(subprocess, "_fork_exec", None, raising=False)  # it is not called
    found = shown(cwd=None, close_fds=False)
    assert found["TRACEPARENT"] == ours()["TRACEPARENT"] and found["PATH"] == os.environ["PATH"]
    given = {"PATH": os.environ["PATH"]}
    assert "TRACEPARENT" not in shown(cwd=None, close_fds=False, env=given)


def test_popen_of_os_and_programs_of_asyncio(stage):
    assert os.popen("echo $TRACEPARENT").read().strip() == ours()["TRACEPARENT"]

    async def start() -> tuple[str, str]:
        with carbon_otel.stage("inference"):
            program = await asyncio.create_subprocess_exec(*SHOW, stdout=subprocess.PIPE)
            output, _ = await program.communicate()
            return dict(eval(output))["TRACEPARENT"], ours()["TRACEPARENT"]

    found, own = asyncio.run(start())
    assert found == own


def test_other_baggage_stays(stage, monkeypatch):
    monkeypatch.setenv("BAGGAGE", "tenant=a")
    assert {"tenant=a", "carbon_otel.stage.name=training"} <= set(shown()["BAGGAGE"].split(","))


def test_the_process_itself_is_not_changed(stage, set_by_c):
    before, in_c = dict(os.environ), inherited()
    shown()
    assert dict(os.environ) == before and inherited() == in_c


def test_popen_is_as_it_was(stage):
    assert subprocess.Popen.__init__.__module__ == "subprocess"
    assert not hasattr(subprocess.Popen.__init__, "__wrapped__")


def test_an_audit_hook_sees_the_call_of_the_user(stage):
    program = """
import subprocess, sys
import carbon_otel
from opentelemetry.sdk.trace import TracerProvider
seen = []
sys.addaudithook(lambda event, args: seen.append(args[3]) if event == "subprocess.Popen" else None)
carbon_otel.instrument(zone="FR", tracer_provider=TracerProvider())
with carbon_otel.stage("training"):
    subprocess.run(["true"])
print(seen)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[None]\n"

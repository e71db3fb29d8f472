"""Integrations: built in, from other packages, and with access to the session."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest

from carbon_otel import guard, instrumentation
from carbon_otel.instrumentation.import_hook import ImportHook

ENTRY_POINTS = """
[carbon_otel_instrumentation]
library = third_party:integration
library.broken_on_load = third_party_broken:integration
library.missing = third_party:no_such_name
library.no_integration = third_party:no_integration
"""
THIRD_PARTY = """
import os

class Integration:
    module = "library"

    def __init__(self):
        self.sessions = []

    def attach(self, session):
        self.sessions.append(session)

    def connect(self, module):
        assert self.sessions, "the session comes first"
        module.connected += 1
        def undo():
            module.connected -= 1
        return undo

integration = Integration()
no_integration = object()
"""
PROGRAM = """
import logging, os, sys, time
faults = []
class Collect(logging.Handler):
    def emit(self, record):
        faults.append(record.getMessage().partition(" failed: ")[0])
logging.getLogger("carbon_otel").addHandler(Collect())
import carbon_otel
from carbon_otel import runtime

def until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)

carbon_otel.instrument(zone="FR", interval_s=30)
until(lambda: "library" in runtime.active().hook._patches)
print("loaded early:", "third_party" in sys.modules)
import library
for part in ("broken_on_load", "missing", "no_integration"):
    until(lambda: f"library.{part}" in runtime.active().hook._patches)
    __import__(f"library.{part}")
import third_party
print("connected:", library.connected, third_party.integration.sessions == [runtime.active()])
print("faults:", [fault for fault in faults if "library" in fault], flush=True)
pid = os.fork()
if pid == 0:
    with carbon_otel.stage("inference"):
        pass
    sessions = third_party.integration.sessions
    print("in a child:", library.connected, len(sessions), sessions[-1] is runtime.active(), flush=True)
    os._exit(0)
os.waitpid(pid, 0)
carbon_otel.instrument(zone="DE", interval_s=30)
until(lambda: library.connected)
print("in a second session:", library.connected, third_party.integration.sessions[-1] is runtime.active())
carbon_otel.uninstrument()
print("undone:", library.connected)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_an_installed_package_adds_its_integration(tmp_path):
    site = tmp_path / "site"
    about = site / "third_party-1.0.dist-info"
    library = site / "library"
    for folder in (about, library):
        folder.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(ENTRY_POINTS)
    (site / "third_party.py").write_text(THIRD_PARTY)
    (site / "third_party_broken.py").write_text("raise RuntimeError('broken on load')\n")
    (library / "__init__.py").write_text("connected = 0\n")
    for part in ("broken_on_load", "missing", "no_integration"):
        (library / f"{part}.py").touch()
    root = Path(guard.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(root)])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "loaded early: False",
        "connected: 1 True",
        "faults: ['instrumenting library.broken_on_load', 'instrumenting library.missing', "
        "'instrumenting library.no_integration']",
        "in a child: 1 2 True",
        "in a second session: 1 True",
        "undone: 0",
    ]


class Recording:
    module = "json"

    def __init__(self, fails: bool = False) -> None:
        self.fails = fails
        self.events: list[str] = []

    def attach(self, session: object) -> None:
        self.events.append(f"attached to {session}")

    def connect(self, module: ModuleType):
        if self.fails:
            raise RuntimeError("a library of another version")
        self.events.append(f"connected to {module.__name__}")
        return lambda: self.events.append("undone")


@pytest.fixture
def hook(monkeypatch):
    monkeypatch.setattr(instrumentation, "_entry_points", lambda: ())
    made = ImportHook()
    yield made
    made.remove()


def test_each_session_attaches_the_connected_integrations(hook):
    integration = Recording()
    hook.attach("the first session")
    instrumentation.install(hook, [integration])
    hook.attach("a child's session")
    hook.remove()
    hook.attach("a session after that")
    assert integration.events == [
        "attached to the first session",
        "connected to json",
        "attached to a child's session",
        "undone",
    ]


def test_an_integration_that_fails_stops_no_other(hook, caplog):
    guard.forget()
    broken, integration = Recording(fails=True), Recording()
    with caplog.at_level(logging.WARNING, "carbon_otel"):
        instrumentation.install(hook, [broken, integration])
    hook.attach("the session")
    assert broken.events == [] and "another version" in caplog.text
    assert integration.events == ["connected to json", "attached to the session"]


def test_every_built_in_integration_connects_and_is_undone():
    """After the undo the attributes of the library are the same objects as before."""
    import concurrent.futures.process as process_pools
    import concurrent.futures.thread as thread_pools
    import multiprocessing.pool
    import multiprocessing.process
    import multiprocessing.spawn
    import subprocess as subprocesses

    places = [
        (thread_pools.ThreadPoolExecutor, "submit"),
        (process_pools.ProcessPoolExecutor, "submit"),
        (multiprocessing.pool.Pool, "apply_async"),
        (multiprocessing.pool.Pool, "_guarded_task_generation"),
        (multiprocessing.process.BaseProcess, "start"),
        (multiprocessing.spawn, "get_preparation_data"),
        (subprocesses, "_fork_exec" if hasattr(subprocesses, "_fork_exec") else "_posixsubprocess"),
        (subprocesses.Popen, "_posix_spawn"),
        (threading.Thread, "_bootstrap"),
    ]
    before = [vars(owner)[name] for owner, name in places]
    hook = ImportHook()
    instrumentation.install(hook)
    assert all(vars(owner)[name] is not old for (owner, name), old in zip(places, before, strict=True))
    hook.remove()
    assert [vars(owner)[name] for owner, name in places] == before


def test_mlflow_keeps_no_measurement_that_is_over():
    pytest.importorskip("mlflow")
    program = """
import gc, weakref
import mlflow
import carbon_otel
from carbon_otel import runtime
carbon_otel.instrument(zone="FR")
measurement = weakref.ref(runtime.active())
carbon_otel.uninstrument()
gc.collect()
print(measurement())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "None", done.stdout

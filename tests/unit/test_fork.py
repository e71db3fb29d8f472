"""The renewal in a forked child: every lock of the session, in the order of registration."""

from __future__ import annotations

import functools
import gc
import os
import queue
import signal
import subprocess
import sys
import threading
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterable

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider

import carbon_otel
from carbon_otel import fork, runtime
from carbon_otel.background import Worker
from carbon_otel.mlflow import integration
from carbon_otel.sensors.apple import IoReport
from carbon_otel.sensors.cpu_info import processor
from carbon_otel.sensors.cpu_model import CpuModel
from carbon_otel.sensors.proc_stat import BusyTime
from tests.fakes.powercap import server

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")

LOCKS = (
    type(threading.Lock()),
    type(threading.RLock()),
    threading.Condition,
    threading.Event,
    threading.Semaphore,
    threading.Barrier,
    threading.Thread,
    queue.Queue,
    queue.SimpleQueue,
)
# Locks that are not renewed in a forked child, with the reason why no code waits for them there.
KEPT = {
    (
        "Sampler",
        "_stop",
    ): "only the end of a session stops its sampler; the parent's session does not end in a child",
    ("Sampler", "_thread"): "as its event",
}


def in_a_child(check: Callable[[], object]) -> str:
    """The result of `check()` in a forked child; a child that hangs is killed."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(20)
            os.write(writer, str(check()).encode())
        except BaseException as error:
            os.write(writer, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        result = answer.read()
    assert os.waitpid(pid, 0)[1] == 0
    return result


def referents(thing: object) -> Iterable[object]:
    """The objects below an object: its attributes, items, bound object, closure and arguments."""
    if isinstance(thing, dict):
        return [*thing.keys(), *thing.values()]
    if isinstance(thing, (list, tuple, set, frozenset, deque)):
        return thing
    if isinstance(thing, types.MethodType):
        return [thing.__self__, thing.__func__]
    if isinstance(thing, types.FunctionType):
        return [cell.cell_contents for cell in thing.__closure__ or ()]
    if isinstance(thing, functools.partial):
        return [thing.func, *thing.args, *thing.keywords.values()]
    if type(thing).__module__.startswith("carbon_otel"):
        slots = [name for cls in type(thing).__mro__ for name in getattr(cls, "__slots__", ())]
        return [*getattr(thing, "__dict__", {}).values(), *(getattr(thing, name, None) for name in slots)]
    return ()


def locks_below(root: object) -> dict[tuple[str, str, int], object]:
    """Each lock that an object of the package below `root` holds, by class, attribute and object."""
    seen: dict[int, object] = {}
    todo = [root]
    while todo:
        thing = todo.pop()
        if id(thing) not in seen:
            seen[id(thing)] = thing
            todo += referents(thing)
    return {
        (type(thing).__name__, name, id(thing)): value
        for thing in seen.values()
        if type(thing).__module__.startswith("carbon_otel")
        for name, value in getattr(thing, "__dict__", {}).items()
        if isinstance(value, LOCKS)
    }


def locks_of_modules() -> dict[tuple[str, str, int], object]:
    return {
        (name, attribute, 0): value
        for name, module in list(sys.modules.items())
        if name.startswith("carbon_otel")
        for attribute, value in vars(module).items()
        if isinstance(value, LOCKS)
    }


def test_each_lock_of_a_session_is_renewed_or_listed_with_its_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("CARBON_OTEL_JOURNAL", str(tmp_path / "journal.json"))
    carbon_otel.instrument(
        zone="FR",
        powercap_root=server(tmp_path).root,
        interval_s=30,
        tracer_provider=TracerProvider(shutdown_on_exit=False),
        meter_provider=MeterProvider(shutdown_on_exit=False),
        annotate_spans=True,
        mlflow_traces=True,
        lineage="churn",
    )
    session = runtime.active()
    assert session is not None
    integration.TRACKING.attach(session)
    session.providers.flush(1)(1)  # creates the workers of the providers
    before = {**locks_below(session), **locks_of_modules()}
    kinds = {cls for cls, _, _ in before}
    assert kinds >= {
        *("Turns", "Attribution", "Membership", "OtelSink", "SpanAnnotator", "Worker", "Serial"),
        *("Predictions", "MlflowTraces", "DeliveryWorker"),
    }

    def kept() -> list[tuple[str, str]]:
        after = {**locks_below(session), **locks_of_modules()}
        return sorted({key[:2] for key, lock in before.items() if after.get(key) is lock})

    assert in_a_child(kept) == str(sorted(KEPT))


def test_a_child_reads_a_sensor_that_another_thread_was_reading_at_the_fork():
    model = CpuModel(processor(), BusyTime())
    apple = IoReport(types.SimpleNamespace(get_cumulative_energy=lambda: "counters"))
    with model._lock, apple._lock:
        assert in_a_child(lambda: (model.read() >= 0, apple.counters())) == "(True, 'counters')"


def test_functions_are_called_in_the_order_of_registration_and_one_that_fails_stops_no_other():
    calls: list[str] = []

    class Owner:
        def __init__(self, name):
            self.name = name
            fork.renew_after_fork(self.renew)

        def renew(self):
            calls.append(self.name)
            if self.name == "second":
                raise RuntimeError(self.name)

    owners = [Owner("first"), Owner("second"), Owner("third")]
    assert in_a_child(lambda: calls) == "['first', 'second', 'third']"
    assert calls == []
    alive = weakref.ref(owners[0])
    del owners[0]
    gc.collect()
    assert alive() is None
    assert in_a_child(lambda: calls) == "['second', 'third']"


def test_a_worker_makes_the_calls_of_a_child_and_not_those_of_the_parent():
    worker = Worker("worker")
    block = threading.Event()
    done: list[str] = []
    worker.submit(block.wait)
    late = worker.submit(lambda: done.append("the parent's"))

    def calls() -> list[str]:
        assert worker.submit(lambda: done.append("the child's")).wait(10)
        return done

    assert in_a_child(calls) == '["the child\'s"]'
    block.set()
    assert late.wait(10)
    worker.close()
    assert done == ["the parent's"]


def test_an_interpreter_that_exits_with_registered_objects_prints_nothing():
    """Objects in a cycle are collected when the globals of most modules are gone."""
    program = """
from carbon_otel.fork import renew_after_fork
class Owner:
    def __init__(self):
        self.itself = self
        renew_after_fork(self.renew)
    def renew(self): ...
owners = [Owner() for _ in range(10)]
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


class Block:
    """A block in a thread that a fork waits for; `leave` ends it."""

    def __init__(self, at_most_s):
        self._inside, self.leave, self.left = threading.Event(), threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._run, args=(at_most_s,))
        self.thread.start()
        assert self._inside.wait(20)

    def _run(self, at_most_s):
        with fork.before_a_fork(at_most_s), fork.before_a_fork(0):
            self._inside.set()
            assert self.leave.wait(60)
            self.left.set()


def test_a_fork_waits_for_a_block():
    block = Block(at_most_s=60)
    threading.Timer(0.05, block.leave.set).start()
    assert in_a_child(block.left.is_set) == "True"
    block.thread.join(20)


def test_a_fork_does_not_wait_longer_than_the_block_says():
    block = Block(at_most_s=0.01)
    assert in_a_child(block.left.is_set) == "False"
    block.leave.set()
    block.thread.join(20)


def test_a_fork_in_a_block_does_not_wait_for_itself():
    with fork.before_a_fork(3600):
        assert in_a_child(lambda: fork._blocks) == "{}"
    assert not fork._blocks and not fork._forks


def test_no_block_is_entered_during_a_fork():
    """By many threads, while the program forks all the time."""
    inside, end = [0] * 4, threading.Event()

    def work(number):
        while not end.is_set():
            with fork.before_a_fork(3600):
                inside[number] = 1
                sum(range(500))
                inside[number] = 0

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    assert [in_a_child(lambda: sum(inside)) for _ in range(30)] == ["0"] * 30
    end.set()
    for thread in threads:
        thread.join(20)


def test_a_failed_fork_lets_blocks_begin_again():
    """The system refuses a process to a user who has too many; to root it refuses none."""
    program = """
import os, resource
from carbon_otel import fork
if os.geteuid() == 0:
    os.setuid(65534)
resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
try:
    os.fork()
except BlockingIOError:
    print(fork._forks)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "set()\n", done.stderr

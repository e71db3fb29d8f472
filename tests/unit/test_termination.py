"""SIGTERM: what was measured is sent, then the process ends as it would have done; guests see nothing of it."""

from __future__ import annotations

import importlib
import os
import signal
import socket
import subprocess
import sys
import threading
from types import ModuleType

import pytest

import carbon_otel
from carbon_otel import termination
from carbon_otel.instrumentation.trio import TrioIntegration
from tests.fakes.powercap import server

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux says who has sent a signal's byte"
)

# Without the translation of `signal.getsignal`.
handler = importlib.import_module("_signal").getsignal


def is_default() -> bool:
    return type(handler(signal.SIGTERM)) is int and handler(signal.SIGTERM) == signal.SIG_DFL


# As many a function of a library in C: it releases the interpreter's lock, and no signal interrupts it.
ONE_CALL = "hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)"
HEAD = """
import functools, hashlib, os, signal, sys, threading, time
from carbon_otel import termination

def term(pid=0):
    os.kill(pid or os.getpid(), signal.SIGTERM)

term_here = functools.partial(os.kill, os.getpid(), signal.SIGTERM)

def said(what):
    return lambda timeout_s: print(what, flush=True)

def hangs(timeout_s):
    print("ending", flush=True)
    threading.Event().wait()

def say_when_within():
    # No other thread runs before the main thread releases the interpreter's lock, within its next call.
    held = threading.Lock()
    held.acquire()
    threading.Thread(target=lambda: held.acquire() and print("within", flush=True), daemon=True).start()
    sys.setswitchinterval(1e3)
    held.release()
"""


def started(program: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HEAD + program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def outcome(program: str) -> tuple[int, str]:
    """The status and the output. A process that does not end fails."""
    process = started(program)
    try:
        output, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert "Traceback" not in errors, errors
    return process.returncode, output


@pytest.fixture
def installed():
    termination.install(lambda timeout_s: None)
    yield
    termination.remove()


def test_nobody_sees_the_handler(installed):
    assert handler(signal.SIGTERM) is termination._handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_handler_that_is_put_back_is_the_default_action(installed):
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    assert before is signal.SIG_DFL
    signal.signal(signal.SIGTERM, before)
    assert is_default()


def test_the_removal_restores_everything():
    """In a process of its own: garbage and threads of other tests open and close descriptors."""
    program = """
descriptors = os.listdir("/proc/self/fd")
termination.install(said("not here"))
assert os.listdir("/proc/self/fd") != descriptors
watch = termination._watch  # not for the collector of garbage to close
thread = next(each for each in threading.enumerate() if each.name == "carbon_otel sigterm")
termination.remove()
thread.join(60)
action = __import__("_signal").getsignal(signal.SIGTERM)
assert type(action) is int and action == signal.SIG_DFL
assert signal.set_wakeup_fd(-1) == -1
assert os.listdir("/proc/self/fd") == descriptors
print("restored")
"""
    assert outcome(program) == (0, "restored\n")


@pytest.mark.parametrize("given", [signal.SIG_IGN, lambda number, frame: None], ids=["ignored", "handled"])
def test_another_action_is_never_replaced(given):
    before = signal.signal(signal.SIGTERM, given)
    try:
        termination.install(lambda timeout_s: None)
        assert signal.getsignal(signal.SIGTERM) is given
        termination.remove()
        assert signal.getsignal(signal.SIGTERM) is given
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_wakeup_descriptor_of_the_application_is_left_alone():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        signal.set_wakeup_fd(theirs.fileno())
        try:
            termination.install(lambda timeout_s: None)
            assert is_default()
        finally:
            assert signal.set_wakeup_fd(-1) == theirs.fileno()


def test_one_that_is_set_later_is_left_alone(installed):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        signal.set_wakeup_fd(theirs.fileno())
        termination.remove()
        assert signal.set_wakeup_fd(-1) == theirs.fileno()


def test_trio_finds_no_descriptor(installed, monkeypatch):
    monkeypatch.setattr(termination, "_gives_way", False)
    TrioIntegration().connect(ModuleType("trio"))
    assert signal.set_wakeup_fd(-1) == -1
    assert handler(signal.SIGTERM) is termination._handler
    termination.remove()
    termination.install(print)  # in a later session
    assert signal.set_wakeup_fd(-1) == -1
    assert handler(signal.SIGTERM) is termination._handler


def test_the_first_process_of_a_container_has_no_handler(monkeypatch):
    """The kernel ignores the default action there: the process would go on without its measurement."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    termination.install(lambda timeout_s: None)
    assert is_default()


def test_another_thread_can_neither_install_nor_remove_it():
    thread = threading.Thread(target=termination.install, args=(print,))
    thread.start()
    thread.join()
    assert is_default()
    termination.install(print)
    thread = threading.Thread(target=termination.remove)
    thread.start()
    thread.join()
    assert handler(signal.SIGTERM) is termination._handler
    termination.remove()
    assert is_default()


def test_a_measurement_has_it_unless_it_is_turned_off(tmp_path):
    root = server(tmp_path).root
    carbon_otel.instrument(zone="FR", powercap_root=root)
    assert handler(signal.SIGTERM) is termination._handler
    carbon_otel.uninstrument()
    assert is_default()
    carbon_otel.instrument(zone="FR", powercap_root=root, flush_on_sigterm=False)
    assert is_default()


def test_the_process_ends_by_the_signal_once_the_measurement_has_ended():
    assert outcome("termination.install(said('ended')); term(); print('not here')") == (-15, "ended\n")


def test_a_measurement_that_does_not_end_delays_the_end_of_the_process_for_a_bounded_time():
    assert outcome("termination.install(hangs); term(); print('not here')") == (-15, "ending\n")


def test_a_fault_in_the_end_is_logged_and_the_process_ends():
    program = "termination.install(lambda timeout_s: 1 / 0); term()"
    process = started(program)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == -15
    assert "ZeroDivisionError" in errors and "ending the measurement failed" in errors


@pytest.mark.parametrize("call", ["time.sleep(3600)", ONE_CALL])
def test_a_second_signal_ends_it_at_once(call):
    process = started(f"termination.BOUND_S = 1e6\ntermination.install(hangs)\nsay_when_within()\n{call}")
    try:
        assert process.stdout.readline() == "within\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "ending\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == -15
    finally:
        process.kill()
        process.communicate()


def test_the_main_thread_may_be_in_a_call_that_returns_late():
    """Python calls no handler before."""
    process = started(f"termination.install(said('ended'))\nsay_when_within()\n{ONE_CALL}")
    try:
        assert process.stdout.readline() == "within\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "ended\n"
        assert process.wait(120) == -15
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    "package", ["carbon_otel", "opentelemetry.sdk.metrics", "logging", "importlib._bootstrap"]
)
def test_code_that_holds_a_lock_which_the_end_needs_continues(package):
    program = f"""
names = {{"__name__": {package!r}, "lock": threading.Lock(), "term": term_here}}
exec("def hold():\\n with lock:\\n  term()\\n  x = 0\\n  for n in range(1000): x += n", names)

def end(timeout_s):
    with names["lock"]:
        print("ended", flush=True)

termination.BOUND_S = 1e6
termination.install(end)
names["hold"]()
termination.remove()
print("not here")
"""
    assert outcome(program) == (-15, "ended\n")


def test_other_code_does_not_continue():
    program = """
def work():
    term()
    print("not here", flush=True)

def end(timeout_s):
    time.sleep(0.5)

termination.BOUND_S = 1e6
termination.install(end)
work()
"""
    assert outcome(program) == (-15, "")


def test_a_later_handler_of_the_application_wins():
    program = """
termination.install(said("not here"))
signal.signal(signal.SIGTERM, lambda number, frame: print("theirs", flush=True))
for _ in range(20):
    term()
    time.sleep(0.01)
"""
    assert outcome(program) == (0, "theirs\n" * 20)


def test_a_forked_child_has_the_default_action_and_its_signals_do_not_reach_the_parent():
    """Some are terminated before the handlers of the fork have run in them."""
    program = """
termination.install(said("not here"))
for _ in range(200):
    child = os.fork()
    if child == 0:
        while True: time.sleep(3600)
    term(child)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -15
child = os.fork()
if child == 0:
    assert type(__import__("_signal").getsignal(signal.SIGTERM)) is int and signal.set_wakeup_fd(-1) == -1
    termination.install(said("in the child"))
    term()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -15
print("survived")
"""
    assert outcome(program) == (0, "in the child\nsurvived\n")


def test_a_process_that_a_library_has_forked_cannot_end_its_parent():
    """Python does not learn of such a fork, and the child writes to the parent's socket."""
    program = """
import ctypes
libc = ctypes.PyDLL(None)
termination.install(said("not here"))
child = libc.fork()
if child == 0:
    os.write(1, b"forked\\n")
    libc.pause()
    os._exit(0)
sys.stdin.readline()
term(child)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -15
time.sleep(0.5)
print("survived")
"""
    process = started(program)
    try:
        assert process.stdout.readline() == "forked\n"
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "survived\n"
    finally:
        process.kill()
        process.communicate()


def test_an_end_that_is_under_way_is_waited_for(tmp_path):
    """SIGTERM at the exit of the program, while its measurement is being sent."""
    program = f"""
import carbon_otel
from carbon_otel import runtime

termination.BOUND_S = 1e6
carbon_otel.instrument(zone="FR", powercap_root={str(server(tmp_path).root)!r})
session = runtime.active()
names = {{"__name__": "the_application", "term": term_here, "end": session.end, "time": time}}
exec("def ends(**how):\\n term()\\n time.sleep(0.3)\\n end(**how)\\n print('ended', flush=True)", names)
session.end = names["ends"]
"""
    assert outcome(program) == (-15, "ended\n")


CLOSED = """
termination.install(said("ended"))
thread = next(each for each in threading.enumerate() if each.name == "carbon_otel sigterm")
os.closerange(3, 256)
mine = [open("/proc/self/comm", "r+") for _ in range(20)]
identities = [os.fstat(each.fileno()).st_ino for each in mine]
thread.join(60)
assert not thread.is_alive() and signal.set_wakeup_fd(-1) == -1
"""


def test_a_program_that_closes_all_descriptors_still_has_its_measurement_ended():
    assert outcome(CLOSED + "term(); print('not here')") == (-15, "ended\n")


def test_a_second_signal_ends_a_program_that_has_closed_all_descriptors():
    process = started("termination.BOUND_S = 1e6" + CLOSED.replace('said("ended")', "hangs") + "term()")
    try:
        assert process.stdout.readline() == "ending\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == -15
    finally:
        process.kill()
        process.communicate()


def test_the_removal_leaves_the_files_that_have_got_the_numbers_of_the_descriptors():
    program = "termination.remove()\nassert [os.fstat(each.fileno()).st_ino for each in mine] == identities"
    assert outcome(CLOSED + program + "\nprint('survived')") == (0, "survived\n")


def test_threads_that_are_greenlets_have_no_handler(monkeypatch):
    """As gevent and eventlet do."""
    monkeypatch.setattr("_thread.start_new_thread", lambda *arguments: None)
    termination.install(lambda timeout_s: None)
    assert is_default()


def test_a_signal_at_the_exit_is_handled_where_no_thread_starts_there():
    """As in Python 3.12."""
    program = """
import atexit

def refused(*arguments, **how):
    raise RuntimeError("can't create new thread at interpreter shutdown")

termination.BOUND_S = 1e6
termination.install(said("ended"))
threading._start_new_thread = threading._start_joinable_thread = refused
atexit.register(term)
"""
    assert outcome(program) == (-15, "ended\n")

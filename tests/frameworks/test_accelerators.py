"""Edges wait for queued work.

Below PyTorch's own Python code, counters are in place of its C functions. JAX queues on the processor, too.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from carbon_otel.instrumentation import accelerators

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")

# PyTorch looks for these functions when it is imported; a build for the CPU has none of them.
FUNCTIONS = """
import importlib, json, sys
import torch

current, waited, contexts, capturing = 0, [], {0}, False

def exchange(device):
    global current
    before, current = current, device
    contexts.add(device)
    return before

class Graph:
    def __new__(cls, *_): return super().__new__(cls)
    def capture_begin(self, **_):
        if fails: raise RuntimeError
    def capture_end(self): pass

fails = False
functions = {
    "_CUDAGraph": Graph,
    "_cuda_init": lambda: None,
    "_cuda_getDeviceCount": lambda: 3,
    "_cuda_exchangeDevice": exchange,
    "_cuda_maybeExchangeDevice": exchange,
    "_cuda_hasPrimaryContext": lambda device: device in contexts,
    "_cuda_isCurrentStreamCapturing": lambda: capturing,
    "_cuda_synchronize": lambda: waited.append(current),
    "_cuda_isInBadFork": lambda: False,
}
for name, function in functions.items():
    setattr(torch._C, name, function)
importlib.reload(torch.cuda.graphs)
importlib.reload(torch.cuda)
"""

CUDA = f"""{FUNCTIONS}
from carbon_otel.instrumentation import accelerators
contexts, capturing = set(json.loads(sys.argv[1])), json.loads(sys.argv[2])
accelerators.WAITS["torch"](torch)
assert waited == []  # not initialised
torch.cuda._initialized = True
accelerators.WAITS["torch"](torch)
print(json.dumps([waited, sorted(contexts), current]))
"""


def run(program: str, *arguments: str) -> str:
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def cuda(contexts: list[int], *, capturing: bool = False) -> list[object]:
    return json.loads(run(CUDA, json.dumps(contexts), json.dumps(capturing)))


def test_every_cuda_device_with_a_context_is_waited_for():
    assert cuda([0, 2]) == [[0, 2], [0, 2], 0]


def test_no_context_is_made():
    assert cuda([]) == [[], [], 0]


def test_a_capture_is_not_broken_off():
    assert cuda([0, 1], capturing=True) == [[], [0, 1], 0]


CAPTURE = f"""{FUNCTIONS}
import threading
import carbon_otel
torch.cuda._initialized = True
carbon_otel.instrument(zone="FR")

def edges():
    waited.clear()
    with carbon_otel.stage("inference"):
        pass
    return len(waited)

assert edges() == 2
graph = torch.cuda.graphs.CUDAGraph()
"""


def test_no_stage_waits_while_another_thread_captures():
    run(f"""{CAPTURE}
thread = threading.Thread(target=graph.capture_begin)
thread.start()
thread.join()
assert edges() == 0
graph.capture_end()
assert edges() == 2
""")


def test_a_capture_that_does_not_begin_or_is_dropped_keeps_nobody_from_waiting():
    run(f"""{CAPTURE}
fails = True
try:
    graph.capture_begin()
except RuntimeError:
    pass
assert edges() == 2
fails = False
graph.capture_begin()
assert edges() == 0
del graph
assert edges() == 2
""")


def test_a_build_for_the_cpu_waits_for_nothing():
    accelerators.WAITS["torch"](torch)
    assert not torch.cuda.is_initialized() and not torch.xpu.is_initialized()


# `queue()` gives the processor work for some seconds.
JAX = """
import os, time
import jax
import jax.numpy as jnp
import carbon_otel

@jax.jit
def products(x):
    return jax.lax.fori_loop(0, 100, lambda _, y: jnp.sin(x @ y), x)

def queue():
    return products(jnp.ones((1500, 1500)))

carbon_otel.instrument(zone="FR")
"""


def test_what_jax_has_queued_belongs_to_the_stage():
    run(f"""{JAX}
with carbon_otel.stage("training"):
    result = queue()
assert result.is_ready()
""")


def test_a_stage_makes_no_backend_of_jax():
    run(f"""{JAX}
with carbon_otel.stage("training"):
    pass
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
""")


def test_a_wait_is_no_part_of_a_function_that_jax_traces():
    run(f"""{JAX}
jax.devices()
def double(x):
    with carbon_otel.stage("inference"):
        return 2 * x
with jax.transfer_guard("disallow"):
    traced = str(jax.make_jaxpr(double)(1.0))
carbon_otel.uninstrument()
assert traced == str(jax.make_jaxpr(double)(1.0))
""")


def test_a_forked_child_does_not_wait_for_the_jax_of_its_parent():
    run(f"""{JAX}
jnp.ones(1).block_until_ready()
child = os.fork()
if not child:
    with carbon_otel.stage("training"):
        pass
    os._exit(0)
end = time.monotonic() + 120
while not (ended := os.waitpid(child, os.WNOHANG))[0]:
    if time.monotonic() > end:
        os.kill(child, 9)
    time.sleep(0.01)
assert ended[1] == 0
""")

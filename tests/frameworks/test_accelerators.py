"""Edges wait for the accelerators. Below PyTorch's own Python code are counters, in place of its C functions."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from carbon_otel.instrumentation import accelerators

pytest.importorskip("torch")

# PyTorch looks for these functions when it is imported; a build for the CPU has none of them.
CUDA = """
import importlib, json, sys
import torch
from carbon_otel.instrumentation import accelerators

current, waited, contexts, capturing = 0, [], set(json.loads(sys.argv[1])), json.loads(sys.argv[2])

def exchange(device):
    global current
    before, current = current, device
    contexts.add(device)
    return before

functions = {
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
torch.cuda.graphs._cuda_isCurrentStreamCapturing = functions["_cuda_isCurrentStreamCapturing"]
importlib.reload(torch.cuda)
accelerators.synchronize()
assert waited == []  # not initialised
torch.cuda._initialized = True
accelerators.synchronize()
print(json.dumps([waited, sorted(contexts), current]))
"""


def cuda(contexts: list[int], *, capturing: bool = False) -> list[object]:
    arguments = [json.dumps(contexts), json.dumps(capturing)]
    done = subprocess.run(
        [sys.executable, "-c", CUDA, *arguments], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_cuda_device_with_a_context_is_waited_for():
    assert cuda([0, 2]) == [[0, 2], [0, 2], 0]


def test_no_context_is_made():
    assert cuda([]) == [[], [], 0]


def test_a_capture_is_not_broken_off():
    assert cuda([0, 1], capturing=True) == [[], [0, 1], 0]


def test_a_build_for_the_cpu_waits_for_nothing():
    accelerators.synchronize()
    import torch

    assert not torch.cuda.is_initialized() and not torch.xpu.is_initialized()

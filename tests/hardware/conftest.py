"""A real card, where there is one."""

from __future__ import annotations

import pytest

from carbon_otel.sensors.nvidia import find as nvml
from carbon_otel.sensors.nvidia.library import Nvml, NvmlUnavailable


@pytest.fixture
def gpu(monkeypatch):
    """The first card, which must have an energy counter."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    try:
        Nvml()
    except NvmlUnavailable as reason:
        pytest.skip(str(reason))
    measured = [s for s in nvml.find()[0] if s.device.method == "measured.counter"]
    if not measured:
        pytest.skip("no GPU with an energy counter")
    return measured[0]


@pytest.fixture
def torch(gpu):
    module = pytest.importorskip("torch")
    if not module.cuda.is_available():
        pytest.skip("torch sees no GPU")
    return module

"""Waits for the accelerators at the edges of a stage, so that the stage that queued the work is charged for it.

Every device that this process has used through PyTorch is waited for. Nothing is imported, and no context is
made on a device that has none. While the current stream is captured into a graph, nothing is waited for: that
would break the capture off. A capture in another thread is not seen.
"""

from __future__ import annotations

import sys
from typing import Any


def synchronize() -> None:
    """Wait for all work that is queued on devices which PyTorch uses."""
    torch = sys.modules.get("torch")
    for name, wait in (("cuda", _cuda), ("xpu", _xpu), ("mps", _mps)):
        # Another thread may be about to import PyTorch.
        module = getattr(torch, name, None)
        if module is not None:
            wait(torch, module)


def _cuda(torch: Any, cuda: Any) -> None:
    """Also of ROCm. Without a context, a device has no work, and would get one by the wait."""
    if not cuda.is_initialized() or cuda.is_current_stream_capturing():
        return
    used = torch._C._cuda_hasPrimaryContext  # noqa: SLF001 - there is no public function
    for device in range(cuda.device_count()):
        if used(device):
            cuda.synchronize(device)


def _xpu(_: Any, xpu: Any) -> None:
    """A device that has no memory of PyTorch has no work."""
    capturing = getattr(xpu, "is_current_stream_capturing", None)
    if not xpu.is_initialized() or (capturing is not None and capturing()):
        return
    for device in range(xpu.device_count()):
        if xpu.memory_reserved(device):
            xpu.synchronize(device)


def _mps(_: Any, mps: Any) -> None:
    """It has one device, and does not say whether that is initialised; work has tensors."""
    if sys.platform == "darwin" and mps.device_count() and mps.current_allocated_memory():
        mps.synchronize()

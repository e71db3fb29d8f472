"""Waits for queued work at the edges of a stage, so that the stage that queued the work is charged for it.

Every device that this process has used through PyTorch or JAX is waited for. Nothing is imported, and no context
is made on a device that has none. While PyTorch captures into a graph, nothing is waited for
(`torch_captures.py`).
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

from carbon_otel.fork import renew_after_fork
from carbon_otel.instrumentation.torch_captures import captures


def _torch(torch: Any) -> None:
    for name, wait in (("cuda", _cuda), ("xpu", _xpu), ("mps", _mps)):
        # Another thread may be about to import PyTorch.
        module = getattr(torch, name, None)
        if module is not None:
            wait(torch, module)


def _cuda(torch: Any, cuda: Any) -> None:
    """Also of ROCm. Without a context, a device has no work, and would get one by the wait."""
    # The current stream is asked too: its capture may have begun without Python.
    if not cuda.is_initialized() or cuda.is_current_stream_capturing():
        return
    used = torch._C._cuda_hasPrimaryContext  # noqa: SLF001 - there is no public function
    for device in range(cuda.device_count()):
        if used(device):
            captures.wait(functools.partial(cuda.synchronize, device))


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


def _jax(jax: Any) -> None:
    """Also on the processor, where JAX does not wait for its work either.

    A device does its work in the order in which that was queued. So something small is queued and waited for, as
    Zeus and mpi4jax do; results that nobody holds any more are waited for with it. Without a backend there is no
    work, and the wait would make one.
    """
    bridge = _jax_bridge()
    if bridge is None or bridge is _inherited:
        return
    # Within a function that is traced, this runs now and is no part of it.
    with jax.ensure_compile_time_eval():
        devices = [device for backend in bridge.backends().values() for device in backend.local_devices()]
        jax.block_until_ready([-jax.device_put(0.0, device) for device in devices])


def _jax_bridge() -> Any:
    """JAX's module of backends, if it has any; there is no public function that does not make them."""
    bridge = sys.modules.get("jax._src.xla_bridge")
    initialized = getattr(bridge, "backends_are_initialized", None)  # another thread may be importing it
    return bridge if initialized is not None and initialized() else None


def _in_forked_child() -> None:
    """A forked child has none of the threads of its parent's backends, and would wait for ever."""
    global _inherited
    _inherited = _jax_bridge()


_inherited: Any = None
renew_after_fork(_in_forked_child)

# By the name of the library: called with its module, waits for all work that it has queued.
WAITS: Final[Mapping[str, Callable[[Any], None]]] = {"torch": _torch, "jax": _jax}

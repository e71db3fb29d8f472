"""Captures into CUDA graphs. While there is one, in any thread, no edge of a stage waits for the device.

A wait would break the capture off, whatever its mode is (tried on CUDA 13.0).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import ModuleType, TracebackType
from typing import Any, Final
from weakref import WeakSet

from carbon_otel.fork import renew_after_fork
from carbon_otel.guard import contain
from carbon_otel.instrumentation.base import Undo
from carbon_otel.instrumentation.in_place import Around, Changed, unseen


class Captures:
    """The graphs that are being captured. A wait and the begin of a capture exclude each other."""

    def __init__(self) -> None:
        self._graphs: WeakSet[Any] = WeakSet()
        self._renew()
        renew_after_fork(self._renew)

    def _renew(self) -> None:
        # A signal handler may open a stage in the middle of a wait.
        self._lock = threading.RLock()

    def begin(self, graph: Any) -> None:
        """A capture is about to begin."""
        with self._lock:
            self._graphs.add(graph)

    def end(self, graph: Any) -> None:
        """It has ended, or not begun."""
        self._graphs.discard(graph)

    def wait(self, synchronize: Callable[[], None]) -> None:
        """Call `synchronize` if there is no capture."""
        with self._lock:
            if not self._graphs:
                synchronize()


captures: Final = Captures()


class _Capture:
    """Around the call that begins a capture, or the one that ends it."""

    __slots__ = ("_begins", "_graph")

    def __init__(self, graph: Any, *, begins: bool) -> None:
        self._graph = graph
        self._begins = begins

    def __enter__(self) -> Callable[[Any], Any]:
        if self._begins:
            contain("beginning a capture", None, captures.begin, self._graph)
        return unseen

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None or not self._begins:
            contain("ending a capture", None, captures.end, self._graph)


def _begin(graph: Any, *_: Any, **__: Any) -> _Capture:
    return _Capture(graph, begins=True)


def _end(graph: Any, *_: Any, **__: Any) -> _Capture:
    return _Capture(graph, begins=False)


class CaptureIntegration:
    """The two methods that every capture of PyTorch goes through, that of a compiled model too."""

    module = "torch.cuda.graphs"

    def connect(self, module: ModuleType) -> Undo:
        changed = Changed()
        changed.put(vars(module.CUDAGraph)["capture_begin"], Around(_begin))
        changed.put(vars(module.CUDAGraph)["capture_end"], Around(_end))
        return changed.undo

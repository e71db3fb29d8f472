"""uvicorn: flush after the shutdown of a server.

From version 0.29 on, uvicorn then ends the process by the signal that it received, so neither `atexit` nor the
finalizers of multiprocessing run.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any, Final

from carbon_otel import runtime
from carbon_otel.guard import guarded
from carbon_otel.instrumentation.base import Undo, replace

# Short, because the user who stops a server waits for it.
_FLUSH_TIMEOUT_S: Final = 2.0


class UvicornIntegration:
    """Flushes after the shutdown of a server."""

    module = "uvicorn.server"

    def connect(self, module: ModuleType) -> Undo:
        server: Any = module.Server
        original = server.shutdown

        @functools.wraps(original)
        async def shutdown(self: Any, *args: Any, **kwargs: Any) -> None:
            await original(self, *args, **kwargs)
            with guarded("flushing after a server's shutdown"):
                _flush()

        return replace(server, "shutdown", shutdown)


def _flush() -> None:
    session = runtime.begun()
    if session is not None:
        session.prepare_exit(_FLUSH_TIMEOUT_S)

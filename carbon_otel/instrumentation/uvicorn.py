"""What a server has used is written when it has shut down: uvicorn then ends its process by the signal it got.

Nothing runs after that, neither `atexit` nor the finalizers of multiprocessing (uvicorn 0.29 and later).
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any, Final

from carbon_otel import runtime
from carbon_otel.guard import contain
from carbon_otel.instrumentation.import_hook import Undo, replace

MODULE: Final = "uvicorn.server"
# Whoever stops a server waits for it.
_FAREWELL_S: Final = 2.0


def patch(module: ModuleType) -> Undo:
    server: Any = module.Server
    original = server.shutdown

    @functools.wraps(original)
    async def shutdown(self: Any, *args: Any, **kwargs: Any) -> None:
        await original(self, *args, **kwargs)
        contain("writing what a server has used", _write, None)

    return replace(server, "shutdown", shutdown)


def _write() -> None:
    active = runtime.active()
    if active is not None:
        active.farewell(_FAREWELL_S)

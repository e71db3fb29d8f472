"""threading: stages in a thread are children of the stage that starts the thread, as long as that is open.

A thread begins in an empty context. Here it begins in a context with the stage, and nothing else. The threads of a
pool start without: their tasks bring their stages.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

from carbon_otel.guard import contain
from carbon_otel.instrumentation.base import Undo, replace
from carbon_otel.stages.handing_on import is_worker, thread_context


class ThreadIntegration:
    """Passes the current stage on to a thread.

    `Thread.start` reads `_bootstrap` on the thread that calls it, and the new thread calls what it has read. A
    call through a context adds no frame, neither to tracebacks nor to the stack of the thread.
    """

    module = "threading"

    def connect(self, module: ModuleType) -> Undo:
        # Gevent replaces the class by one below it.
        owner = next(each for each in module.Thread.__mro__ if "_bootstrap" in vars(each))
        original = vars(owner)["_bootstrap"]

        def _bootstrap(self: Any) -> Any:
            bound = original.__get__(self)
            context = contain("handing a stage on to a thread", None, _context_of, self)
            return bound if context is None else functools.partial(context.run, bound)

        return replace(owner, "_bootstrap", property(_bootstrap))


def _context_of(thread: Any) -> Any:
    return None if is_worker(thread) else thread_context()

"""subprocess: programs started from a stage continue its trace, through their environment.

An environment that the caller gives (`env=`) is not changed: a sandbox may need it empty. `carbon_otel.inject`
adds the trace to such an environment.
"""

from __future__ import annotations

import functools
import inspect
import os
from types import ModuleType
from typing import Any

from carbon_otel.guard import contain
from carbon_otel.instrumentation.base import Undo, replace
from carbon_otel.stages.api import inject


class SubprocessIntegration:
    """Passes the trace of a stage on to the programs that it starts."""

    module = "subprocess"

    def connect(self, module: ModuleType) -> Undo:
        original = module.Popen.__init__
        signature = inspect.signature(original)

        @functools.wraps(original)
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - the name of the replaced method
            call = contain("passing the trace to a program", None, _with_trace, signature, self, args, kwargs)
            if call is None:
                original(self, *args, **kwargs)
            else:
                original(*call.args, **call.kwargs)

        return replace(module.Popen, "__init__", __init__)


def _with_trace(
    signature: inspect.Signature, popen: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> inspect.BoundArguments | None:
    """The call with the trace in its environment; None if no stage is open, or if `env` is given."""
    variables = inject({})
    if not variables:
        return None
    try:
        call = signature.bind(popen, *args, **kwargs)
    except TypeError:
        return None  # the original call raises the error
    if call.arguments.get("env") is not None:
        return None
    call.arguments["env"] = {**os.environ, **variables}
    return call

"""Programs started from a stage (`subprocess`) hang in its trace, by their environment."""

from __future__ import annotations

import functools
import inspect
import os
from types import ModuleType
from typing import Any, Final

from carbon_otel.guard import contain
from carbon_otel.instrumentation.import_hook import Undo, replace
from carbon_otel.stages.api import inject

MODULE: Final = "subprocess"


def patch(module: ModuleType) -> Undo:
    original = module.Popen.__init__
    signature = inspect.signature(original)

    @functools.wraps(original)
    def started(self: Any, *args: Any, **kwargs: Any) -> None:
        call = contain("handing the trace to a program", None, _with_context, signature, self, args, kwargs)
        if call is None:
            original(self, *args, **kwargs)
        else:
            original(*call.args, **call.kwargs)

    return replace(module.Popen, "__init__", started)


def _with_context(
    signature: inspect.Signature, self: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> inspect.BoundArguments | None:
    """The call with the context in its environment; None where there is no stage, or the caller has said one."""
    ours = inject({})
    if not ours:
        return None
    try:
        call = signature.bind(self, *args, **kwargs)
    except TypeError:
        return None  # the original says what is wrong
    given = call.arguments.get("env")
    environment = dict(os.environ if given is None else given)
    if given is not None and "TRACEPARENT" in environment:
        return None
    call.arguments["env"] = {**environment, **ours}
    return call

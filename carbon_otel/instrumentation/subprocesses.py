"""subprocess: programs started from a stage continue its trace and add to its run, through their environment.

An environment that the caller gives (`env=`) is not changed: a sandbox may need it empty. `carbon_otel.inject`
adds the variables to such an environment.

An environment that is left to be inherited stays the one of the process, which `os.environ` does not show whole: a
C library may have called `setenv`. The variables are therefore added at the last moment, in the call that forks:

* without `preexec_fn`, the program gets a copy of the environment that C sees, with the variables;
* with `preexec_fn`, the child sets the variables before it calls that function, and then inherits as without them.

Where CPython uses `posix_spawn`, it passes `os.environ`, and so does this. `os.popen` and
`asyncio.create_subprocess_exec` use `subprocess`. `os.system` passes the environment of this process on, which is
not changed, and `os.posix_spawn` and `os.exec*` the one that they are given: `carbon_otel.inject` is for these.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from types import ModuleType, SimpleNamespace
from typing import Any, Final

from carbon_otel.guard import contain
from carbon_otel.instrumentation.base import Undo, replace, undo_all
from carbon_otel.stages.api import inject

# Places in the arguments of `_posixsubprocess.fork_exec`.
_ENVIRONMENT: Final = 5
_FIRST_OPTION: Final = 14


class SubprocessIntegration:
    """Passes the stage and its run on to the programs that the stage starts."""

    module = "subprocess"

    def connect(self, module: ModuleType) -> Undo:
        undos, names = [], vars(module)
        if "_fork_exec" in names:
            undos.append(replace(module, "_fork_exec", _passing(names["_fork_exec"])))
        elif "_posixsubprocess" in names:  # Python 3.10
            patched = SimpleNamespace(fork_exec=_passing(names["_posixsubprocess"].fork_exec))
            undos.append(replace(module, "_posixsubprocess", patched))
        spawn = vars(module.Popen).get("_posix_spawn")
        if spawn is not None:
            undos.append(replace(module.Popen, "_posix_spawn", _spawning(spawn)))
        return undo_all(undos)


def _passing(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def fork_exec(*args: Any) -> Any:
        if args[_ENVIRONMENT] is None:
            args = contain("passing the trace to a program", args, _with_variables, args)
        return original(*args)

    return fork_exec


def _spawning(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def _posix_spawn(self: Any, args: Any, executable: Any, env: Any, *rest: Any) -> Any:
        if env is None:
            env = contain("passing the trace to a program", None, _environment)
        return original(self, args, executable, env, *rest)

    return _posix_spawn


def _environment() -> Mapping[str, str] | None:
    variables = inject({})
    return {**os.environ, **variables} if variables else None


def _with_variables(args: tuple[Any, ...]) -> tuple[Any, ...]:
    variables = inject({})
    if not variables:
        return args
    for place in range(_FIRST_OPTION, len(args)):
        if callable(args[place]):  # only preexec_fn is
            return (*args[:place], _Setting(variables, args[place]), *args[place + 1 :])
    entries = [entry for entry in inherited() if os.fsdecode(entry.partition(b"=")[0]) not in variables] + [
        os.fsencode(f"{name}={value}") for name, value in variables.items()
    ]
    return (*args[:_ENVIRONMENT], entries, *args[_ENVIRONMENT + 1 :])


class _Setting:
    """Sets the variables in a forked child, and then calls the `preexec_fn` of the caller."""

    def __init__(self, variables: Mapping[str, str], then: Callable[[], object]) -> None:
        self._variables = variables
        self._then = then

    def __call__(self) -> object:
        os.environ.update(self._variables)
        return self._then()


def inherited() -> list[bytes]:
    """The environment of this process as C sees it and a program inherits it; `name=value` each."""
    try:
        import ctypes  # noqa: PLC0415 - takes milliseconds

        first: Any = ctypes.POINTER(ctypes.c_char_p).in_dll(ctypes.CDLL(None), "environ")
    except (ImportError, OSError, TypeError, ValueError, AttributeError):
        # A system without this symbol: what Python knows.
        return [os.fsencode(f"{name}={value}") for name, value in os.environ.items()]
    entries: list[bytes] = []
    while first and (entry := first[len(entries)]) is not None:
        entries.append(entry)
    return entries

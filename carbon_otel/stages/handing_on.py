"""Hands a stage on with the work that it gives to other threads and to the processes of a pool.

A thread, or a task, gets what belongs to the place where it was started or submitted: a stage, a run, or work that
another process has handed over. Where nothing does, the work is handed on as it is.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from contextvars import Context
from types import FunctionType, MethodType, TracebackType
from typing import Any, Final, NamedTuple, cast

from carbon_otel import runtime
from carbon_otel.guard import contain
from carbon_otel.handover import NO_WORK, Work, present
from carbon_otel.stages.api import Recorder, inject
from carbon_otel.stages.open_stage import OpenStage, current
from carbon_otel.stages.outermost import Outermost, outermost

# What the threads and processes of pools run, by module and name: they belong to nothing but their tasks.
_WORKERS: Final = {
    ("concurrent.futures.thread", "_worker"),
    ("concurrent.futures.process", "_process_worker"),
    ("multiprocessing.pool", "worker"),
    ("multiprocess.pool", "worker"),
    ("joblib.externals.loky.process_executor", "_process_worker"),
    ("loky.process_executor", "_process_worker"),
    ("distributed.process", "_run"),
    ("distributed.threadpoolexecutor", "_worker"),
}


class Place(NamedTuple):
    """What belongs to the place where work is handed on.

    Attributes:
        stage: the stage that is open there, if any.
        work: the work of another process that runs there, if any.
        call: the call of a library that is in progress there, if any.
    """

    stage: OpenStage | None = None
    work: Work | None = None
    call: Outermost | None = None


def is_worker(started: Any) -> bool:
    """Whether a thread or a process is one of a pool; `started` has the attributes of either."""
    target = vars(started).get("_target")
    if type(target) is MethodType:
        target = target.__func__
    # Of a function only: another callable belongs to the user, and may do anything when it is asked.
    return type(target) is FunctionType and (target.__module__, target.__name__) in _WORKERS


def here() -> Place | None:
    """What belongs to this place; None if nothing is to be handed on."""
    active = cast("Recorder | None", runtime.begun())
    stage = active.engine.parent_of(current.get()) if active is not None else None
    work, call = present.get(), outermost.get()
    if stage is None and work is None and (call is None or not call.goes_on_here()):
        return None
    return Place(stage, work, None if call is None else call.hand_on(stage))


def thread_context() -> Context | None:
    """The context for a thread started here; None if nothing is to be handed on."""
    place = here()
    if place is None:
        return None
    context = Context()
    context.run(_set, place)
    return context


def for_thread(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function for another thread of this process, where it runs in the stage of this place."""
    place = contain("handing a stage on", None, here)
    if place is None or not callable(function):
        return function
    return functools.partial(_within, place, function)


def for_process(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function for another process, where it runs as work of the stage of this place."""
    variables = inject({})
    return Task(variables, function) if variables and callable(function) else function


@contextlib.contextmanager
def no_stage() -> Iterator[None]:
    """Within it, a worker of a pool starts: it inherits nothing of the place that happens to start it."""
    active = cast("Recorder | None", runtime.begun())
    token, stage = present.set(NO_WORK), current.set(None)
    nothing: AbstractContextManager[object] = contextlib.nullcontext()
    try:
        with nothing if active is None else contain("starting a worker", nothing, active.no_span):
            yield
    finally:
        current.reset(stage)
        present.reset(token)


class Task:
    """A callable for a worker process, with the variables of the stage that gave it to the pool.

    A worker that has not imported carbon_otel loads the callable itself.
    """

    __slots__ = ("_function", "_variables")

    def __init__(self, variables: Mapping[str, str], function: Callable[..., Any]) -> None:
        self._variables = variables
        self._function = function

    def __reduce__(self) -> tuple[Any, ...]:
        # getattr(sys.modules.get("carbon_otel.stages.handing_on"), "load", itemgetter(0))((function, variables)),
        # by references, so that there is no code to compile. The default of `get` only loads the function, whose
        # module may import carbon_otel, before `get` is called.
        module = _Call(dict.get, _MODULES, __name__, (self._function,))
        found = _Call(getattr, module, "load", operator.itemgetter(0))
        return found, ((self._function, dict(self._variables)),)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        try:
            with TakenOver(self._variables):
                return self._function(*args, **kwargs)
        except BaseException as error:
            _hide_this_frame(error)
            raise


def load(parts: tuple[Callable[..., Any], Mapping[str, str]]) -> Task:
    """A task in a worker that has imported carbon_otel."""
    function, variables = parts
    return Task(variables, function)


class _Call:
    """Is pickled as the result of a call of functions of the standard library, which every process can load."""

    __call__ = None  # what makes an object must look callable

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._made_by = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self._made_by


_MODULES: Final = _Call(getattr, _Call(importlib.import_module, "sys"), "modules")


class Within:
    """A block of work that was handed on by another place of this process."""

    __slots__ = ("_before", "_place")

    def __init__(self, place: Place) -> None:
        self._place = place
        self._before: Place | None = None

    def __enter__(self) -> Callable[[Any], Any]:
        self._before = Place(current.get(), present.get(), outermost.get())
        _set(self._place)
        return _unseen

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            _set(self._before)


class TakenOver(Within):
    """A block of work that a stage of another process has handed over, by its variables."""

    __slots__ = ("_work",)

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._work = Work(variables)
        super().__init__(Place(None, self._work, outermost.get()))

    def __enter__(self) -> Callable[[Any], Any]:
        seen = super().__enter__()
        active = cast("Recorder | None", runtime.begun())
        if active is not None:
            contain("taking work over", None, active.take_over, self._work)
        return seen

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._work.leave is not None:
                contain("ending work that was taken over", None, self._work.leave)
        finally:
            super().__exit__(kind, error, trace)


def _unseen(result: Any) -> Any:
    return result


def _set(place: Place) -> None:
    current.set(place.stage)
    present.set(place.work)
    outermost.set(place.call)


def _within(place: Place, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    try:
        with Within(place):
            return function(*args, **kwargs)
    except BaseException as error:
        _hide_this_frame(error)
        raise


def _hide_this_frame(error: BaseException) -> None:
    """Drop the caller's frame from the traceback: from Python 3.11 on, `raise` then does not add it again."""
    trace = error.__traceback__
    if trace is not None:
        # Not by an assignment: a class of the user may refuse that.
        BaseException.with_traceback(error, trace.tb_next)

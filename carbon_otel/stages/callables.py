"""What `@stage(...)` makes of each kind of callable, and of what a call returns.

The function that the user gets is of the kind that was decorated: a coroutine function, a generator function, a
descriptor. A plain function may return a coroutine, a generator or a task, because another decorator wrapped an
async function, for example. The stage of the call then goes on with that object and ends with it, and the caller
gets an object of the same type.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import types
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import Any, Final, Protocol, cast

from carbon_otel.guard import contain, undone
from carbon_otel.stages.pending import going_on

_CACHED: Final = type(functools.lru_cache(len))
# The code of the functions that these decorators return.
_MANAGERS: Final[dict[Any, Callable[..., Any]]] = {
    _decorator(_decorator).__code__: _decorator
    for _decorator in cast(Any, (contextlib.contextmanager, contextlib.asynccontextmanager))
}


class Line(Protocol):
    """The stage of a stream. It opens with its first block, and is charged and current only within its blocks."""

    def __enter__(self) -> Any: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
        /,
    ) -> None: ...

    def pay(self) -> None:
        """Charge the stage from now on, without making it current."""

    def close(self, generator: Generator[Any, Any, Any]) -> None:
        """Close the generator; the stage pays for it."""

    def end(self) -> None:
        """End the stage; nothing, if it has ended before."""


Call = Any  # a context manager
# A new stage for one call; and the stream of such a stage, which takes over an open stage, or opens it later.
New = Callable[[], Call]
Stream = Callable[[Call], Line]


def measured(function: Any, new: New, stream: Stream) -> Any:
    """The callable or descriptor that opens a stage for each call.

    Raises TypeError for a class, and for what cannot be called.
    """
    if isinstance(function, (classmethod, staticmethod)):
        return type(function)(measured(function.__func__, new, stream))
    if isinstance(function, property):
        return function.getter(measured(function.fget, new, stream))
    if isinstance(function, functools.cached_property):
        fresh = copy.copy(function)
        fresh.func = measured(fresh.func, new, stream)
        return fresh
    if isinstance(function, functools.partialmethod):
        inner = measured(function.func, new, stream)
        return type(function)(inner, *function.args, **function.keywords)
    if isinstance(function, type):
        raise TypeError(
            f"{function.__qualname__} is a class; write @carbon_otel.stage(...) above its methods, or "
            "`with carbon_otel.stage(...):` around the calls"
        )
    if not callable(function):
        if hasattr(type(function), "__get__"):
            return _Method(function, new, stream)
        raise TypeError(
            f"@carbon_otel.stage(...) stands above a function or method, not above a {type(function).__name__}"
        )
    manager = _MANAGERS.get(getattr(function, "__code__", None))
    if manager is not None:
        return manager(measured(function.__wrapped__, new, stream))
    wrapped: Any = functools.wraps(function)(_around(function, new, stream))
    if isinstance(function, _CACHED):
        wrapped.cache_info, wrapped.cache_clear = function.cache_info, function.cache_clear
    return wrapped


def _around(function: Callable[..., Any], new: New, stream: Stream) -> Any:
    run = _code_of(function)
    if inspect.isasyncgenfunction(run):
        return _async_generator(function, lambda: stream(new()))
    if inspect.isgeneratorfunction(run):
        steps = _awaited_steps if _is_awaited(run) else _generator
        return steps(function, lambda: stream(new()))
    if inspect.iscoroutinefunction(run) or inspect.iscoroutinefunction(function):

        async def async_function(*args: Any, **kwargs: Any) -> Any:
            latest, call = function, None
            try:
                latest, call = _latest(async_function, function), new()
            except RecursionError:
                undone["a stage"] = True
            if call is None:
                return await latest(*args, **kwargs)
            with call:
                result = await latest(*args, **kwargs)
                try:
                    return _going_on(result, call, stream)
                except RecursionError:
                    undone["following a result"] = True
                    return result

        return async_function

    def plain_function(*args: Any, **kwargs: Any) -> Any:
        latest, call = function, None
        try:
            latest, call = _latest(plain_function, function), new()
        except RecursionError:
            undone["a stage"] = True
        if call is None:
            return latest(*args, **kwargs)
        with call:
            result = latest(*args, **kwargs)
            try:
                return _going_on(result, call, stream)
            except RecursionError:
                undone["following a result"] = True
                return result

    return plain_function


def _latest(wrapper: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """The decorated function; its new version, once IPython's autoreload has put that into the wrapper."""
    latest: Callable[..., Any] = getattr(wrapper, "__wrapped__", function)
    return latest


def _code_of(function: Any) -> Any:
    """The function that a partial, or an object with `__call__`, runs."""
    while isinstance(function, functools.partial):
        function = function.func
    return function if inspect.isroutine(function) else type(function).__call__


def _is_awaited(run: Any) -> bool:
    """Whether a generator function was decorated with `types.coroutine`."""
    code = getattr(getattr(run, "__func__", run), "__code__", None)
    return code is not None and bool(code.co_flags & inspect.CO_ITERABLE_COROUTINE)


class _Method:
    """A descriptor of another kind, such as `functools.singledispatchmethod`: what it gives is measured."""

    def __init__(self, inner: Any, new: New, stream: Stream) -> None:
        self._inner, self._new, self._stream = inner, new, stream

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return measured(self._inner.__get__(instance, owner), self._new, self._stream)

    def __set_name__(self, owner: type, name: str) -> None:
        if hasattr(type(self._inner), "__set_name__"):
            self._inner.__set_name__(owner, name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def _going_on(result: Any, call: Call, stream: Stream) -> Any:
    """What the caller gets instead of a result in which the work is still to be done: its stage goes on with it.

    Any other result is returned as it is. It may be an object of the user, so only its type is looked at.
    """
    kind = type(result)
    if kind is types.CoroutineType or kind is types.GeneratorType or kind is types.AsyncGeneratorType:
        return contain("following a result", result, followed, result, kind, stream(call))
    return result if kind is types.NoneType else going_on(result, kind, call, stream)


def followed(result: Any, kind: type, line: Line) -> Any:
    """A generator or coroutine of the same type, in whose steps the line is entered. It ends with it."""
    around: Any
    if kind is types.CoroutineType:
        around = _awaited(line, _Coroutine(result))
    elif kind is types.AsyncGeneratorType:
        around = _async_generator(lambda: result, lambda: line)()
    else:
        awaited = result.gi_code.co_flags & inspect.CO_ITERABLE_COROUTINE
        around = (_awaited_steps if awaited else _generator)(lambda: result, lambda: line)()
    around.__name__, around.__qualname__ = result.__name__, result.__qualname__
    return around


class _Coroutine:
    """A coroutine that is closed if nobody awaits it: the coroutine around it warns of that, once."""

    __slots__ = ("inner",)

    def __init__(self, inner: Coroutine[Any, Any, Any]) -> None:
        self.inner = inner

    def __del__(self) -> None:
        self.inner.close()


async def _awaited(line: Line, coroutine: _Coroutine) -> Any:
    try:
        with line:
            return await coroutine.inner
    finally:
        line.end()


def _awaited_steps(
    function: Callable[..., Generator[Any, Any, Any]], line_of: Callable[[], Line]
) -> Callable[..., Any]:
    """For a coroutine that is written as a generator: the stage pays while it waits, as in any other coroutine."""

    def coroutine(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        line = line_of()
        try:
            with line:
                return (yield from _latest(coroutine, function)(*args, **kwargs))
        finally:
            line.end()

    return types.coroutine(coroutine)


def _generator(
    function: Callable[..., Generator[Any, Any, Any]], line_of: Callable[[], Line]
) -> Callable[..., Generator[Any, Any, Any]]:
    def generator(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        line = None
        try:
            line = line_of()
        except RecursionError:
            undone["a stage"] = True
        if line is None:
            return (yield from function(*args, **kwargs))
        inner = _latest(generator, function)(*args, **kwargs)
        try:
            step: Callable[[], Any] = functools.partial(next, inner)
            while True:
                try:
                    with line:
                        item = step()
                except StopIteration as stop:
                    return stop.value
                try:
                    sent = yield item
                    step = functools.partial(inner.send, sent)
                except GeneratorExit:
                    line.close(inner)
                    raise
                except BaseException as thrown:  # noqa: BLE001 - handed to the generator, as `yield from` does
                    step = functools.partial(inner.throw, thrown)
        finally:
            line.end()

    return generator


def _async_generator(
    function: Callable[..., AsyncGenerator[Any, Any]], line_of: Callable[[], Line]
) -> Callable[..., AsyncGenerator[Any, Any]]:
    async def generator(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        line = line_of()
        inner = _latest(generator, function)(*args, **kwargs)
        try:
            step: Callable[[], Any] = inner.__anext__
            while True:
                try:
                    with line:
                        item = await step()
                except StopAsyncIteration:
                    return
                try:
                    sent = yield item
                    step = functools.partial(inner.asend, sent)
                except GeneratorExit:
                    with line:
                        await inner.aclose()
                    raise
                except BaseException as thrown:  # noqa: BLE001 - handed to the generator
                    step = functools.partial(inner.athrow, thrown)
        finally:
            line.end()

    return generator

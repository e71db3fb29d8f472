"""Results of a decorated call in which the work is still to be done: futures, lazy iterators, threads, processes.

The stage of the call goes on with a future and with an iterator of the standard library. Of other objects a log
line says, once for each type, that the stage has only the call. A result may be an object of the user, so only its
type is looked at.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from carbon_otel.guard import contain, log_once

if TYPE_CHECKING:
    from carbon_otel.stages.callables import Call, Line, Stream

# Iterators that do nothing before they are iterated, and have no methods of their own.
_LAZY: Final = {
    *(map, filter, zip, enumerate),
    *(itertools.accumulate, itertools.chain, itertools.compress, itertools.dropwhile, itertools.filterfalse),
    *(itertools.islice, itertools.pairwise, itertools.starmap, itertools.takewhile, itertools.zip_longest),
}
# By name, since programs without them should not import them.
_BY_NAME: Final = {
    "Future": {"concurrent.futures._base"},
    "Thread": {"threading"},
    "BaseProcess": {"multiprocessing.process"},
    "ApplyResult": {"multiprocessing.pool"},
    "IMapIterator": {"multiprocessing.pool"},
    "Popen": {"subprocess"},
}


def going_on(result: Any, kind: type, call: Call, stream: Stream) -> Any:
    """What the caller gets instead of such a result; any other result is returned as it is."""
    if kind in _LAZY:
        return contain("following an iterator", result, _Lazy, result, stream, call)
    for base in kind.__mro__:
        if "__await__" in base.__dict__ or (
            base.__name__ in _BY_NAME and base.__module__ in _BY_NAME[base.__name__]
        ):
            contain("following a result", None, _follow, result, kind, base, call, stream)
            break
    return result


def _follow(result: Any, kind: type, base: type, call: Call, stream: Stream) -> None:
    awaited = "__await__" in base.__dict__
    if base.__name__ == "Future" and not awaited:
        line = _paying(stream(call))
        # Not the method of a class of the user.
        base.add_done_callback(result, lambda _: line.end())  # type: ignore[attr-defined]
    elif hasattr(kind, "_asyncio_future_blocking"):  # a future or task of asyncio
        line = _paying(stream(call))
        result.add_done_callback(lambda _: line.end())
    elif awaited:
        log_once(
            "a function below @carbon_otel.stage(...) returned a %s, which is awaited later: the stage has the "
            "energy of the call only; write `async with carbon_otel.stage(...)` around the await",
            kind.__qualname__,
            about=kind.__qualname__,
        )
    else:
        log_once(
            "a function below @carbon_otel.stage(...) returned a %s: the stage has the energy of the call only, "
            "and none of what that does later; wait for it in the function, or in `with carbon_otel.stage(...)`",
            kind.__qualname__,
            about=kind.__qualname__,
        )


def _paying(line: Line) -> Line:
    line.pay()
    return line


class _Lazy:
    """An iterator whose stage pays while it is iterated. Unlike a generator, threads may share it."""

    __slots__ = ("__weakref__", "_inner", "_line")

    def __init__(self, inner: Iterator[Any], stream: Stream, call: Call) -> None:
        self._inner = inner
        self._line = stream(call)

    def __iter__(self) -> _Lazy:
        return self

    def __next__(self) -> Any:
        try:
            with self._line:
                return next(self._inner)
        except StopIteration:
            self._line.end()
            raise

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A copy is the iterator itself, which belongs to no stage."""
        return self._inner.__reduce_ex__(protocol)

    @property  # type: ignore[misc] # an attribute of `object` that can be set
    def __class__(self) -> type:
        """For `isinstance`."""
        return type(self._inner)

"""Errors about arguments that a function does not take, with what to write instead."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


def near_ones_named(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """The function; for an unknown keyword it raises TypeError with the nearest of its keywords.

    So it does for values without a name, if the function takes names only.
    """

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        known = inspect.signature(function).parameters
        if args and all(each.kind is each.KEYWORD_ONLY for each in known.values()):
            called, first = function.__name__, next(iter(known))
            raise TypeError(f"{called}() takes its settings by name, such as {called}({first}=...)")
        for name in kwargs:
            if name not in known:
                raise TypeError(_message(function.__name__, name, list(known)))
        return function(*args, **kwargs)

    return call


def _message(function: str, name: str, known: list[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, known, n=2, cutoff=0.6)
    if near:
        return f"{function}() has no argument {name!r}; did you mean {' or '.join(map(repr, near))}?"
    return f"{function}() has no argument {name!r}; it has {', '.join(known)}"

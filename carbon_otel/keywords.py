"""Errors about keywords that a function does not have, with the nearest ones. Python has them from 3.13 on."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


def near_ones_named(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """The function; for an unknown keyword it raises TypeError with the nearest of its keywords."""

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        known = inspect.signature(function).parameters
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

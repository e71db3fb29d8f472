"""CodeCarbon's decorator: one tracker for each call of a function."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

from carbon_otel.compat.codecarbon.tracker import EmissionsTracker
from carbon_otel.guard import log_once

_F = TypeVar("_F", bound=Callable[..., Any])


def track_emissions(fn: _F | None = None, *args: Any, offline: bool | None = None, **kwargs: Any) -> Any:
    """Track each call of a function, with the arguments of the trackers: with and without parentheses.

        @track_emissions(project_name="churn", offline=True, country_iso_code="FRA")
        def train(): ...

    A coroutine function is tracked while it is awaited. Of a generator function only the call is.

    Raises:
        ValueError: with `offline=True` and no country or cloud; and as the trackers do, at the call.
    """
    if offline and not any(kwargs.get(name) for name in _PLACES):
        raise ValueError("offline=True needs a place: write country_iso_code='FRA', for example")

    def decorate(function: _F) -> _F:
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            log_once(
                "@track_emissions tracks the call of the generator %s only; write @carbon_otel.stage(...) instead",
                function.__qualname__,
                about=function.__qualname__,
            )
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def tracked_coroutine(*values: Any, **named: Any) -> Any:
                with EmissionsTracker(*args, **kwargs):
                    return await function(*values, **named)

            return cast(_F, tracked_coroutine)

        @functools.wraps(function)
        def tracked(*values: Any, **named: Any) -> Any:
            with EmissionsTracker(*args, **kwargs):
                return function(*values, **named)

        return cast(_F, tracked)

    return decorate if fn is None else decorate(fn)


_PLACES = ("country_iso_code", "country_2letter_iso_code", "cloud_provider")
